"""Intervals, entry by entry, as centre and radius."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hedgerow.bounds.inner import inner


@dataclass(frozen=True)
class Interval:
    """All tensors within `radius` (0 or more) of `centre`, entry by entry; both `[N, ...]`."""

    centre: Tensor
    radius: Tensor

    @classmethod
    def between(cls, lower: Tensor, upper: Tensor) -> Interval:
        """Return the interval with these ends."""
        centre = torch.lerp(lower, upper, 0.5)
        return cls(centre, upper - centre)

    @property
    def lower(self) -> Tensor:
        """The smallest entries."""
        return self.centre - self.radius

    @property
    def upper(self) -> Tensor:
        """The largest entries."""
        return self.centre + self.radius

    def least(self, rows: Tensor) -> Tensor:
        """Return the `[N, S]` minima of the linear functions `rows`, `[N, S, ...]`, over the interval: exact."""
        return inner(rows, self.centre) - inner(rows.abs(), self.radius)
