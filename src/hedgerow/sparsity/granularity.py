"""Granularity: what is kept or removed together, as a way to view a tensor as groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from hedgerow.registry import Registry
from hedgerow.sparsity.topk import threshold_for, topk_mask


@dataclass(frozen=True)
class Granularity:
    """Groups are the positions along `axes` of a weight; all entries that share a position live or die together.

    `axes=None` means every axis: each single weight is a group of its own.
    """

    name: str
    axes: tuple[int, ...] | None = None

    @property
    def family(self) -> str:
        """The name under which a method says that it has this form; sizes such as those of a block left out."""
        return self.name

    @property
    def density(self) -> Fraction | None:
        """The kept share, where the granularity itself fixes it."""
        return None

    def _others(self, weight: Tensor) -> list[int]:
        kept: Sequence[int] = range(weight.dim()) if self.axes is None else self.axes
        if kept == (1,) and weight.shape[1] == 1:
            kept = (0,)  # a depthwise convolution's channels lie on its output axis
        return [axis for axis in range(weight.dim()) if axis not in kept]

    def scores(self, magnitudes: Tensor) -> Tensor:
        """Return one score per group: the sum (l1 norm) of the non-negative `magnitudes` in it."""
        others = self._others(magnitudes)
        return magnitudes.sum(dim=others, keepdim=True) if others else magnitudes

    def norms(self, weight: Tensor) -> Tensor:
        """Return the l2 norm of every group, in the shape of `scores`; its gradient at 0 is 0."""
        others = self._others(weight)
        return torch.linalg.vector_norm(weight, dim=others, keepdim=True) if others else weight.abs()

    def select(self, scores: Tensor, keep: int) -> Tensor:
        """Return which `keep` groups live: those of largest score."""
        return topk_mask(scores, keep)

    def cut(self, norms: Tensor, keep: int) -> Tensor:
        """Return the norm that a group has to exceed for `keep` to live: a scalar, or one for every group."""
        return threshold_for(norms, keep)

    def expand(self, groups: Tensor, weight: Tensor) -> Tensor:
        """Return the values of `groups`, one per group, at every entry of its group; of `weight`'s shape."""
        return groups.expand_as(weight)

    def mask(self, magnitudes: Tensor, keep: int) -> Tensor:
        """Return the boolean mask that keeps the `keep` groups of largest l1 norm; of the weight's shape."""
        return self.expand(self.select(self.scores(magnitudes), keep), magnitudes).contiguous()

    def count(self, weight: Tensor) -> int:
        """Return how many groups `weight` has."""
        others = set(self._others(weight))
        groups = 1
        for axis, size in enumerate(weight.shape):
            groups *= 1 if axis in others else size
        return groups

    def fixed_keep(self, weight: Tensor) -> int:
        """Return how many groups live, where the granularity fixes it."""
        raise TypeError(f"{self.name} fixes no density")

    def remark(self, weight: Tensor) -> str | None:
        """Return in words what does not come out even in this weight, if anything."""
        return None


GRANULARITIES: Registry[Granularity] = Registry("granularity")
WEIGHT = GRANULARITIES.register("weight")(Granularity("weight"))
FILTER = GRANULARITIES.register("filter")(Granularity("filter", (0,)))
CHANNEL = GRANULARITIES.register("channel")(Granularity("channel", (1,)))
KERNEL = GRANULARITIES.register("kernel")(Granularity("kernel", (0, 1)))
