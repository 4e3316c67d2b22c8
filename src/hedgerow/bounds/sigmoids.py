"""Sigmoid and tanh between two lines: tangents and chords (CROWN, 1811.00866, table 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hedgerow.bounds.curves import Lines, Slope

_HALVINGS = 40
_NARROW = 1e-9


@dataclass(frozen=True)
class SShaped:
    """A rising function, convex below 0 and concave above, that is symmetric about its value at 0.

    `slope_at` is the derivative, `bend_at` the second one.
    """

    function: Callable[[Tensor], Tensor]
    slope_at: Callable[[Tensor], Tensor]
    bend_at: Callable[[Tensor], Tensor]
    at_zero: float
    least_slope = None

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return both ends' values."""
        return self.function(lower), self.function(upper)

    def undecided(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return where there is an interval at all."""
        return lower < upper

    def relax(
        self, lower: Tensor, upper: Tensor, *, slope: Slope | Tensor = "adaptive", unit: float = 0.0
    ) -> Lines:
        """Return chords on the side where the function bends away, tangents on the other."""
        up, up_at = self._above(lower, upper)
        low, low_at = self._above(-upper, -lower)
        extra = 16 * unit * (2 + torch.maximum(lower.abs(), upper.abs())) if unit else 0.0
        lines = [low, up, 2 * self.at_zero - low_at - extra, up_at + extra]
        return Lines(*(line.unsqueeze(1) for line in lines))

    def _above(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return slope and intercept of a line that is nowhere below the function between the two."""
        low, high = self.function(lower), self.function(upper)
        wide = upper - lower > _NARROW
        chord = torch.where(wide, (high - low) / torch.where(wide, upper - lower, torch.ones_like(low)), 0 * low)
        chord_at = torch.maximum(high - chord * upper, low - chord * lower)
        touch = torch.where(lower >= 0, (lower + upper) / 2, self._touching(lower, upper))
        slope = self.slope_at(touch)
        by_chord = (upper <= 0) | ~wide | ((lower < 0) & (self.slope_at(upper) >= chord))
        slope_at = self.function(touch) - slope * touch
        return torch.where(by_chord, chord, slope), torch.where(by_chord, chord_at, slope_at)

    def _touching(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return points, as small as halving finds them, whose tangents pass above the function at `lower`."""
        with torch.no_grad():
            start, end = torch.zeros_like(upper), upper.clamp_min(0)
            value = self.function(lower)
            for _ in range(_HALVINGS):
                middle = (start + end) / 2
                above = self.function(middle) + self.slope_at(middle) * (lower - middle) >= value
                start, end = torch.where(above, start, middle), torch.where(above, middle, end)
            change = (self.slope_at(end) - self.slope_at(lower)) / (self.bend_at(end) * (end - lower))
        if not lower.requires_grad:
            return end
        # The point follows `lower` as the equation of the tangent has it; its value stays as it is.
        return end + change.nan_to_num(0.0, 0.0, 0.0) * (lower - lower.detach())


def sigmoid() -> SShaped:
    """Return the logistic function."""

    def slope(x: Tensor) -> Tensor:
        y = x.sigmoid()
        return y * (1 - y)

    def bend(x: Tensor) -> Tensor:
        return slope(x) * (1 - 2 * x.sigmoid())

    return SShaped(torch.sigmoid, slope, bend, 0.5)


def tanh() -> SShaped:
    """Return the hyperbolic tangent."""

    def slope(x: Tensor) -> Tensor:
        return 1 - x.tanh().square()

    return SShaped(torch.tanh, slope, lambda x: -2 * x.tanh() * slope(x), 0.0)
