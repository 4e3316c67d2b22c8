"""Proximal maps of sparsity penalties, on groups measured by their l2 norm.

All are u_g = w_g s(||w_g||) / ||w_g|| above a threshold and 0 up to it; on single weights the norm is |w|.
`strength` is the penalty's factor over the coupling's, lambda / beta, of min_u strength * P(u) + ||w - u||^2 / 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Regulariser(Protocol):
    """A penalty P on the norm of a group, known by its proximal map."""

    def threshold(self, strength: float) -> float:
        """Return the largest norm that is mapped to 0."""

    def shrunk(self, norms: Tensor, threshold: Tensor) -> Tensor:
        """Return the norms after the map that has this `threshold`; meant for norms above it."""


@dataclass(frozen=True)
class L0:
    """P = 1 for any norm but 0: hard thresholding at sqrt(2 lambda / beta) (1901.09731)."""

    def threshold(self, strength: float) -> float:
        """Return sqrt(2 * strength)."""
        return math.sqrt(2.0 * strength)

    def shrunk(self, norms: Tensor, threshold: Tensor) -> Tensor:
        """Return the norms as they are."""
        return norms


@dataclass(frozen=True)
class L1:
    """P = the norm itself (group lasso): soft thresholding at lambda / beta."""

    def threshold(self, strength: float) -> float:
        """Return the strength."""
        return strength

    def shrunk(self, norms: Tensor, threshold: Tensor) -> Tensor:
        """Return norm - threshold."""
        return norms - threshold


@dataclass(frozen=True)
class TransformedL1:
    """P(r) = (a + 1) r / (a + r), between l0 (a to 0) and l1 (a to infinity); map in closed form (1412.5240)."""

    a: float = 1.0

    def threshold(self, strength: float) -> float:
        """Return strength (a + 1) / a up to strength a^2 / (2 (a + 1)), sqrt(2 strength (a + 1)) - a / 2 above."""
        if strength <= self.a**2 / (2.0 * (self.a + 1.0)):
            return strength * (self.a + 1.0) / self.a
        return math.sqrt(2.0 * strength * (self.a + 1.0)) - self.a / 2.0

    def strength(self, threshold: Tensor) -> Tensor:
        """Return the strength that has this threshold: the inverse of `threshold`."""
        a = self.a
        low = threshold * a / (a + 1.0)
        return torch.where(threshold <= a / 2.0, low, (threshold + a / 2.0).square() / (2.0 * (a + 1.0)))

    def shrunk(self, norms: Tensor, threshold: Tensor) -> Tensor:
        """Return r - 4/3 (a + r) sin^2(phi / 6), cos phi = 1 - 27 strength a (a + 1) / (2 (a + r)^3).

        The source's 2/3 (a + r) cos(phi / 3) - 2/3 a + r / 3, written so that float32 keeps small norms.
        """
        a = self.a
        half = (6.75 * a * (a + 1.0) * self.strength(threshold) / (a + norms).pow(3)).clamp(max=1.0)
        sine = torch.sin(torch.arcsin(half.sqrt()) / 3.0)
        shrunk = norms - 4.0 / 3.0 * (a + norms) * sine.square()
        return torch.maximum(shrunk, norms * torch.finfo(norms.dtype).eps)  # 0 is for those that are removed


def shrinkage(
    norms: Tensor, cut: Tensor, *, regulariser: Regulariser, limit: float = math.inf, live: Tensor | None = None
) -> Tensor:
    """Return the factor of every group, of the shape of `norms`: 0 for a norm up to `cut`, else s(norm) / norm.

    The threshold of s is the cut, though at most `limit`: up to the limit this is the map of the penalty alone,
    above it that of the penalty and a limit on the number of groups. `cut` is a scalar or has one value per group.
    With `live`, a boolean per group, those groups are kept instead of the ones above the cut.
    """
    chosen = norms > cut if live is None else live & (norms > 0)
    zero = torch.zeros((), dtype=norms.dtype, device=norms.device)
    return torch.where(chosen, regulariser.shrunk(norms, cut.clamp(max=limit)) / norms, zero)


def scaled(weight: Tensor, factors: Tensor) -> Tensor:
    """Return u: `weight` times `factors`, broadcast, and exactly +0 where a factor is 0."""
    zero = torch.zeros((), dtype=weight.dtype, device=weight.device)
    return torch.where(factors > 0, weight * factors, zero)
