"""The threat model: which changes to an image the attacker may make."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from hedgerow.team import drawn_like

Norm = Literal["linf", "l2"]


def parse_fraction(value: object) -> Fraction:
    """Read `8/255`, `"8/255"`, `0.031`, `2` or a `Fraction` exactly (0.031 means 31/1000).

    Raises `ValueError` for anything that is not a finite number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str | Fraction):
        raise ValueError(f"{value!r} is not a number; write a fraction such as 8/255 or a decimal such as 0.3")
    try:
        numerator, *rest = [Fraction(part) for part in str(value).split("/")]
        (denominator,) = rest or [Fraction(1)]
        return numerator / denominator
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(
            f"{value!r} is not a number; write a fraction such as 8/255 or a decimal such as 0.3"
        ) from None


@dataclass(frozen=True)
class ThreatModel:
    """All images within `eps` of the original in `norm`, with every pixel still in [0,1].

    `eps` is kept as an exact fraction in pixel units ([0,1] scale). Raises `ValueError` when it is negative,
    or above 1 under linf (8 instead of 8/255, say).
    """

    norm: Norm = "linf"
    eps: Fraction = Fraction(8, 255)

    def __init__(self, norm: Norm = "linf", eps: Fraction | float | str = Fraction(8, 255)) -> None:
        exact = parse_fraction(eps)
        if norm not in ("linf", "l2"):
            raise ValueError(f"norm {norm!r} is not known; allowed: linf, l2")
        if exact < 0:
            raise ValueError(f"eps {exact} is negative; it is a distance in pixel units, such as 8/255")
        if norm == "linf" and exact > 1:
            raise ValueError(
                f"eps {exact} is above 1 and pixels run from 0 to 1; did you mean {exact}/255?"
                if exact.denominator == 1
                else f"eps {exact} is above 1 and pixels run from 0 to 1"
            )
        object.__setattr__(self, "norm", norm)
        object.__setattr__(self, "eps", exact)

    def __str__(self) -> str:
        return f"{self.norm} {self.eps}"

    def with_eps(self, eps: Fraction | float | str) -> ThreatModel:
        """Return the same norm with another radius."""
        return ThreatModel(self.norm, eps)

    def project(self, perturbed: Tensor, original: Tensor) -> Tensor:
        """Return the point of the ball and the pixel range closest (linf) or near (l2) to `perturbed`.

        Both are `[N, ...]` floats; the result lies in the ball to float tolerance and in [0,1] exactly.
        """
        eps = float(self.eps)
        if self.norm == "linf":
            inside = torch.minimum(torch.maximum(perturbed, original - eps), original + eps)
        else:
            inside = original + self.shorten(perturbed - original)
        return inside.clamp(0.0, 1.0)

    def shorten(self, delta: Tensor) -> Tensor:
        """Return perturbations `[N, ...]` cut back to the ball around 0, whatever images they are for."""
        eps = float(self.eps)
        if self.norm == "linf":
            return delta.clamp(-eps, eps)
        return delta * (eps / per_example_norm(delta).clamp_min(1e-12)).clamp_max(1.0)

    def random_start(self, original: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return a point drawn uniformly from the ball around each image, cut to the pixel range."""
        if self.norm == "linf":
            noise = drawn_like(original, lambda t: t.uniform_(-1.0, 1.0, generator=generator))
            return self.project(original + float(self.eps) * noise, original)
        direction = drawn_like(original, lambda t: t.normal_(generator=generator))
        radius = drawn_like(original.new_empty(len(original)), lambda t: t.uniform_(generator=generator))
        radius.pow_(1.0 / max(1, original[:1].numel()))
        scale = radius.view(-1, *[1] * (original.dim() - 1)) / per_example_norm(direction).clamp_min(1e-12)
        return self.project(original + float(self.eps) * direction * scale, original)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the unit step that raises a linear loss most: sign (linf) or normalised gradient (l2)."""
        if self.norm == "linf":
            return gradient.sign()
        return gradient / per_example_norm(gradient).clamp_min(1e-12)

    def distance(self, perturbed: Tensor, original: Tensor) -> Tensor:
        """Return the `[N]` distances between two batches in this norm."""
        delta = (perturbed - original).flatten(1)
        distances: Tensor = torch.linalg.vector_norm(delta, ord=torch.inf if self.norm == "linf" else 2, dim=1)
        return distances


def per_example_norm(batch: Tensor) -> Tensor:
    """Return the l2 norm of each example, shaped `[N, 1, ...]` for broadcasting."""
    norms: Tensor = torch.linalg.vector_norm(batch.flatten(1), dim=1)
    return norms.view(-1, *[1] * (batch.dim() - 1))
