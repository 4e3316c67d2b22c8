"""The sets of images that bounds hold for: a box, or an l2 ball within a box."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hedgerow.bounds.inner import inner
from hedgerow.bounds.interval import Interval
from hedgerow.errors import DataError
from hedgerow.threat import ThreatModel

_TIGHTENINGS = 4
_L2_MARGIN = 1e-6  # relative; what `ThreatModel.project` leaves of an l2 ball through its float32 norm


@dataclass(frozen=True)
class Region:
    """All x with `lower <= x <= upper`, and, where `eps` is above 0, within `eps` of `centre` in l2.

    All tensors are `[N, ...]`; `centre` lies in the box.
    """

    lower: Tensor
    upper: Tensor
    centre: Tensor | None = None
    eps: float = 0.0

    @property
    def is_box(self) -> bool:
        """Whether the ball plays no part."""
        return self.centre is None or self.eps == 0

    def __len__(self) -> int:
        return len(self.lower)

    def __getitem__(self, part: slice) -> Region:
        centre = None if self.centre is None else self.centre[part]
        return Region(self.lower[part], self.upper[part], centre, self.eps)

    def to(self, dtype: torch.dtype) -> Region:
        """Return the same region in another number format, to which every number of it converts exactly."""
        centre = None if self.centre is None else self.centre.to(dtype)
        return Region(self.lower.to(dtype), self.upper.to(dtype), centre, self.eps)

    def interval(self) -> Interval:
        """Return the box."""
        return Interval.between(self.lower, self.upper)

    def reach(self) -> Tensor:
        """Return magnitudes `[N, ...]` whose products with a row bound all that `least` adds up.

        The length of a row is at most the sum of its magnitudes, so the ball's part counts as an entry as well.
        """
        return torch.maximum(self.lower.abs(), self.upper.abs()) + 3 * self.eps

    def least(self, rows: Tensor) -> Tensor:
        """Return lower bounds `[N, S]` of the linear functions `rows`, `[N, S, ...]`, over the region.

        Exact for a box. With a ball: the best of the minimum over the box, the minimum over the ball, and the
        Lagrange dual of both together at a multiplier near its best; each of the three is a bound by itself.
        """
        if self.centre is None or self.eps == 0:
            return self.interval().least(rows)
        low, high = self.lower - self.centre, self.upper - self.centre
        in_box = inner(rows.clamp_min(0), low) + inner(rows.clamp_max(0), high)
        length = torch.linalg.vector_norm(rows.flatten(2), dim=2)
        low, high = low.unsqueeze(1), high.unsqueeze(1)
        weight = _multiplier(rows.detach(), low, high, self.eps, length.detach())
        step = torch.clamp(-rows.detach() / _like(weight, rows), low, high)
        dual = (rows * step).flatten(2).sum(2)
        dual = dual + weight / 2 * (step.square().flatten(2).sum(2) - self.eps**2)
        best = torch.maximum(torch.maximum(in_box, -self.eps * length), dual)
        return inner(rows, self.centre) + best


def _multiplier(rows: Tensor, low: Tensor, high: Tensor, eps: float, length: Tensor) -> Tensor:
    """Return for every row a multiplier of the ball: from that of the ball alone down towards the best one.

    The step against the row is cut to the box; what is not cut has to make up for the length that the ball still
    allows. Every round cuts more, so the multiplier falls; any positive value gives a bound.
    """
    tiny = torch.finfo(rows.dtype).tiny ** 0.5
    weight = (length / eps).clamp_min(tiny)
    for _ in range(_TIGHTENINGS):
        wanted = -rows / _like(weight, rows)
        cut = (wanted < low) | (wanted > high)
        spent = torch.clamp(wanted, low, high).masked_fill(~cut, 0.0).square().flatten(2).sum(2)
        free = rows.masked_fill(cut, 0.0).square().flatten(2).sum(2)
        weight = (free / (eps**2 - spent).clamp_min(tiny)).sqrt().clamp_min(tiny)
    return weight


def _like(weight: Tensor, rows: Tensor) -> Tensor:
    return weight.view(*weight.shape, *[1] * (rows.dim() - 2))


def box(lower: Tensor, upper: Tensor) -> Region:
    """Return the box with these ends, `[N, ...]` floats of one shape.

    Raises `DataError` when shapes differ, for NaN, and for a lower end above the upper one.
    """
    if lower.shape != upper.shape or lower.dim() < 2 or not lower.is_floating_point():
        raise DataError(
            f"the box has the ends {list(lower.shape)} {lower.dtype} and {list(upper.shape)} {upper.dtype}; give "
            "floats [N, ...] of one shape"
        )
    if not bool((lower <= upper).all()):
        raise DataError("the box is empty or not a number: its lower end must be at most its upper end everywhere")
    return Region(lower, upper)


def ball(x: Tensor, threat: ThreatModel, *, outward: bool = False) -> Region:
    """Return the images that the attacker may make of `x`, `[N, ...]` in [0,1], every pixel in [0,1].

    Under linf this is the box [x - eps, x + eps] cut to [0,1], exactly; under l2 the ball, and that box around it.
    With `outward` the region also holds the points that the rounded arithmetic of `ThreatModel.project` makes:
    box ends go to the next number of `x`'s format, an l2 radius grows by one millionth.
    """
    eps = float(threat.eps)
    lower, upper = x - eps, x + eps
    if outward and eps:
        lower = torch.nextafter(lower, torch.full_like(x, -torch.inf))
        upper = torch.nextafter(upper, torch.full_like(x, torch.inf))
    lower, upper = lower.clamp(0.0, 1.0), upper.clamp(0.0, 1.0)
    if threat.norm == "linf":
        return Region(lower, upper)
    return Region(lower, upper, x, eps * (1 + _L2_MARGIN) if outward else eps)
