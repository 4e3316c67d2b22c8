"""A unit: groups of equal standing, among which one share is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from hedgerow.sparsity.granularity import Granularity

Values = Mapping[str, Tensor]
"""One tensor per weight, by its name."""


class Unit(Protocol):
    """Groups of equal standing: a budget gives their unit a number, the largest of them live.

    A value per group is a tensor of the shape that `scores` returns. Methods that take `Values` read those of
    `weights` and no others.
    """

    @property
    def name(self) -> str:
        """Its name; that of the weight, where the unit is the whole of one weight."""

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of the weights that its groups lie in."""

    @property
    def count(self) -> int:
        """How many groups there are."""

    def scores(self, magnitudes: Values) -> Tensor:
        """Return one score per group: the sum (l1 norm) of the non-negative `magnitudes` in it."""

    def norms(self, weights: Values) -> Tensor:
        """Return the l2 norm of every group; its gradient at 0 is 0."""

    def select(self, scores: Tensor, keep: int) -> Tensor:
        """Return a boolean per group: True for the `keep` of largest score."""

    def cut(self, norms: Tensor, keep: int) -> Tensor:
        """Return the norm that a group has to exceed for `keep` to live: a scalar, or one for every group."""

    def passes_on(self, name: str) -> bool:
        """Tell whether its groups' slices of the weight `name` may be 0 or not without any effect."""

    def spread(self, groups: Tensor, name: str, like: Tensor) -> Tensor:
        """Return values per group at the places of the weight `name`, 1 at those of no group.

        Of the dtype of `groups`, broadcastable to `like`, which has the shape of the weight.
        """


@dataclass(frozen=True)
class Single:
    """The groups of one weight, as its granularity has them."""

    name: str
    granularity: Granularity
    count: int

    @property
    def weights(self) -> tuple[str, ...]:
        """The one weight."""
        return (self.name,)

    def scores(self, magnitudes: Values) -> Tensor:
        """Return the l1 norm of every group."""
        return self.granularity.scores(magnitudes[self.name])

    def norms(self, weights: Values) -> Tensor:
        """Return the l2 norm of every group."""
        return self.granularity.norms(weights[self.name])

    def select(self, scores: Tensor, keep: int) -> Tensor:
        """Return which groups live."""
        return self.granularity.select(scores, keep)

    def cut(self, norms: Tensor, keep: int) -> Tensor:
        """Return what a group has to exceed."""
        return self.granularity.cut(norms, keep)

    def passes_on(self, name: str) -> bool:
        """False: what is 0 here is missing in the answer."""
        return False

    def spread(self, groups: Tensor, name: str, like: Tensor) -> Tensor:
        """Return the values of `groups` at every entry of its group."""
        return self.granularity.expand(groups, like)
