"""Activations: what they make of an interval, and two lines that hold them in between (1811.00866, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from hedgerow.bounds.inner import inner

Slope = Literal["adaptive", "parallel"]
"""The lower slope of an activation with a kink: `adaptive` takes one of its two pieces, the one that leaves the
smaller area (1811.00866); `parallel` that of the upper line (Fast-Lin, 1804.09699; symbolic intervals,
1809.08098)."""
_NARROW = 1e-12


class Relaxation(Protocol):
    """A node between functions that are linear in its input, on the input's interval."""

    def substitute(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return rows over the input, and `[N, S]` constants, that bound `rows` over the output from below."""

    def reach(self, size: Tensor) -> Tensor:
        """Return a bound on what either function is added up from, for inputs of at most that magnitude."""


@dataclass(frozen=True)
class Lines:
    """`low * x + low_at <= f(x) <= up * x + up_at`, entry by entry.

    All are `[N, 1, *shape]`, slopes also `[N, S, *shape]`, a line for every row; intercepts of None are 0.
    """

    low: Tensor
    up: Tensor
    low_at: Tensor | None
    up_at: Tensor | None

    def substitute(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the rows over x: a positive coefficient takes the lower line, a negative one the upper."""
        negative, constant = rows.clamp_max(0), None
        if self.up_at is not None:
            constant = inner(negative, self.up_at.squeeze(1))
        if self.low_at is not None:
            more = inner(rows.clamp_min(0), self.low_at.squeeze(1))
            constant = more if constant is None else constant + more
        return (rows * self.low).addcmul_(negative, self.up - self.low), constant

    def reach(self, size: Tensor) -> Tensor:
        """Return `|slope| * size + |intercept|` of the steeper line."""
        slope = torch.maximum(self.low.abs().amax(1), self.up.abs().amax(1))
        tops = [at.abs().squeeze(1) for at in (self.low_at, self.up_at) if at is not None]
        return slope * size + sum(tops[1:], tops[0]) if tops else slope * size


class Curve(Protocol):
    """An activation. `unit` is the rounding of one operation; what it can do to a line is added on the outside."""

    @property
    def least_slope(self) -> float | None:
        """Any lower slope from this one to 1 is as sound, through 0; None where there is no such choice."""

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the smallest and the largest values between `lower` and `upper`, which may be overwritten."""

    def undecided(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return where tighter bounds would make tighter lines, as booleans."""

    def relax(
        self, lower: Tensor, upper: Tensor, *, slope: Slope | Tensor = "adaptive", unit: float = 0.0
    ) -> Relaxation:
        """Return lines for inputs between `lower` and `upper`, both `[N, *shape]`.

        A tensor in the place of a rule holds the lower slopes themselves, `[N, S, *shape]`.
        """


@dataclass(frozen=True)
class Bent:
    """max(x, a x) for a <= 1: ReLU (a = 0), leaky ReLU, absolute value (a = -1)."""

    a: float = 0.0

    @property
    def least_slope(self) -> float:
        """The slope of the left piece."""
        return self.a

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return both ends' values; below them 0 where a falling piece meets a rising one."""
        if self.a == 0:
            return lower.relu_(), upper.relu_()
        low, high = torch.maximum(lower, self.a * lower), torch.maximum(upper, self.a * upper)
        if self.a > 0:
            return low, high
        least = torch.where((lower < 0) & (upper > 0), torch.zeros_like(low), torch.minimum(low, high))
        return least, torch.maximum(low, high)

    def undecided(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return where the kink lies inside."""
        return (lower < 0) & (upper > 0)

    def relax(
        self, lower: Tensor, upper: Tensor, *, slope: Slope | Tensor = "adaptive", unit: float = 0.0
    ) -> Lines:
        """Return the chord above, a line through 0 below; one and the same where only one piece is left."""
        below = lower.clamp_max(0)
        above = torch.maximum(upper.clamp_min(0), below + _NARROW)
        up = (above - self.a * below) / (above - below)
        at = (1 - up) * above
        low_at = None
        if unit:
            extra = 16 * unit * torch.where(self.undecided(lower, upper), above - below, torch.zeros_like(at))
            if self.a not in (-1, 0, 1):  # its own rounding
                extra = 16 * unit * torch.maximum(lower.abs(), upper.abs())
                low_at = -extra.unsqueeze(1)
            at = at + extra
        low = up.unsqueeze(1)
        if slope == "adaptive":
            steep = torch.where(above >= -below, torch.ones_like(up), torch.full_like(up, self.a))
            low = torch.where(self.undecided(lower, upper), steep, up).unsqueeze(1)
        elif isinstance(slope, Tensor):
            low = torch.where(self.undecided(lower, upper).unsqueeze(1), slope.clamp(self.a, 1.0), low)
        return Lines(low, up.unsqueeze(1), low_at, at.unsqueeze(1))


@dataclass(frozen=True)
class Clip:
    """x cut to [low, high], either of which may be infinite: ReLU6 and hardtanh."""

    low: float
    high: float
    least_slope = None

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return both ends' values."""
        return lower.clamp(self.low, self.high), upper.clamp(self.low, self.high)

    def undecided(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return where a kink lies inside."""
        return ((lower < self.low) & (upper > self.low)) | ((lower < self.high) & (upper > self.high))

    def relax(
        self, lower: Tensor, upper: Tensor, *, slope: Slope | Tensor = "adaptive", unit: float = 0.0
    ) -> Lines:
        """Return the chord to the upper kink and its mirror image below, or a constant where that is closer."""
        up, up_at = self._above(lower, upper, self.low, self.high)
        low, low_at = self._above(-upper, -lower, -self.high, -self.low)
        extra = 16 * unit * (lower.abs() + upper.abs()) if unit else 0.0
        lines = [low, up, -low_at - extra, up_at + extra]
        return Lines(*(line.unsqueeze(1) for line in lines))

    @staticmethod
    def _above(lower: Tensor, upper: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
        """Return slope and intercept of a line that is nowhere below the function between the two."""
        end = upper.clamp_max(high)
        first, last = lower.clamp(low, high), end.clamp_min(low)
        wide = end - lower > _NARROW
        slope = torch.where(wide, (last - first) / torch.where(wide, end - lower, torch.ones_like(end)), 0 * end)
        # The same line at the middle, against the constant: less is less area.
        flat = (upper > high) & (first + slope * (upper - lower) / 2 > high)
        slope = slope.masked_fill(flat, 0.0)
        return slope, last - slope * end
