"""Noise: the sensor, few photons, broken bits (1903.12261, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from hedgerow.corruptions.base import Place, register


def _normal(x: Tensor, place: Place) -> Tensor:
    return place.draw(x, lambda image, dice: torch.empty_like(image).normal_(generator=dice))


@register(
    "gaussian-noise", family="noise", small=(0.04, 0.06, 0.08, 0.09, 0.1), large=(0.08, 0.12, 0.18, 0.26, 0.38)
)
def gaussian_noise(x: Tensor, spread: float, place: Place) -> Tensor:
    """Normal noise of that spread is added to every value."""
    return x + spread * _normal(x, place)


@register("shot-noise", family="noise", small=(500, 250, 100, 75, 50), large=(60, 25, 12, 5, 3))
def shot_noise(x: Tensor, photons: float, place: Place) -> Tensor:
    """Every value is counted in photons, so many for white, and the count is a Poisson variable."""
    return place.draw(x * photons, lambda rates, dice: torch.poisson(rates, generator=dice)) / photons


@register(
    "impulse-noise", family="noise", small=(0.01, 0.02, 0.03, 0.05, 0.07), large=(0.03, 0.06, 0.09, 0.17, 0.27)
)
def impulse_noise(x: Tensor, share: float, place: Place) -> Tensor:
    """That share of the values becomes 0 or 1, either as likely: salt and pepper."""
    dots = place.draw(x, lambda image, dice: torch.empty_like(image).uniform_(generator=dice))
    salted = torch.where(dots < share, torch.ones_like(x), x)
    return torch.where(dots < share / 2, torch.zeros_like(x), salted)


@register("speckle-noise", family="noise", small=(0.06, 0.1, 0.12, 0.16, 0.2), large=(0.15, 0.2, 0.35, 0.45, 0.6))
def speckle_noise(x: Tensor, spread: float, place: Place) -> Tensor:
    """Normal noise that grows with the value: the brighter, the noisier."""
    return x + x * spread * _normal(x, place)
