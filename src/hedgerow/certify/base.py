"""What a way to certify is: evidence on an image, and what it proves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from hedgerow.registry import Registry
from hedgerow.threat import Norm

Evidence = dict[str, Any]  # plain JSON values: it is kept in files


@dataclass(frozen=True)
class Proof:
    """What the evidence on one image says.

    Every image that is closer than `radius` is given the class `prediction`; where that is None nothing is proved
    and the radius is 0. `answer` is the plain prediction, with no proof.
    """

    prediction: int | None
    radius: float
    answer: int


class Certifier(Protocol):
    """A way to certify; `examine` looks at the network, `conclude` needs the evidence alone.

    Made from keyword-only options, which the command line passes on, and the recipe's `seed` and `threat`, if it
    takes them.
    """

    @property
    def asks(self) -> int:
        """How often an image is put to the network, by answers alone; 0 where its operations are looked at."""

    @property
    def norm(self) -> Norm:
        """In which norm the radii are."""

    @property
    def seed(self) -> int:
        """What decides all randomness."""

    @property
    def label(self) -> str:
        """What tells it from the same method with other settings, in the name of a folder."""

    @property
    def answer_name(self) -> str:
        """Name of the plain predictions' accuracy."""

    @property
    def answer_how(self) -> str:
        """How the plain predictions come about."""

    def settings(self) -> dict[str, Any]:
        """Return all that the evidence depends on beside network and image, as plain values."""

    def describe(self) -> str:
        """Return in words how a radius is obtained and what it promises."""

    def radii(self) -> list[float]:
        """Return the radii, from 0, at which certified accuracy is usually stated."""

    def together(self, model: nn.Module, batch_size: int) -> int:
        """Return how many images are examined at a time; it decides which forwards they share."""

    def check(self, model: nn.Module, x: Tensor) -> None:
        """Raise `ModelError` when the proof does not cover this network (eval mode, `[N, ...]` images)."""

    def examine(self, model: nn.Module, x: Tensor, positions: Sequence[int], batch_size: int) -> list[Evidence]:
        """Return the evidence on `[G, ...]` images, at most `batch_size` images in a forward.

        What is random depends on the seed and on an image's position alone.
        """

    def conclude(self, evidence: Evidence) -> Proof:
        """Return what the evidence proves."""


CERTIFIERS: Registry[Any] = Registry("method of certification")
