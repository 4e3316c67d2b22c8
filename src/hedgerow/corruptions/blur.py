"""Blur: out of focus, in motion, a zoom while the shutter is open (1903.12261, section 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from hedgerow.corruptions.base import Place, register


@register("gaussian-blur", family="blur", small=(0.4, 0.6, 0.7, 0.8, 1.0), large=(1, 2, 3, 4, 6))
def gaussian_blur(x: Tensor, sigma: float, place: Place) -> Tensor:
    """A normal kernel of that spread in pixels, cut off at four times of it."""
    sigma = sigma * place.scale
    line = normal_line(sigma, int(4 * sigma + 0.5))
    return filtered(x, line[:, None] * line[None, :])


@register(
    "defocus-blur",
    family="blur",
    small=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    large=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
)
def defocus_blur(x: Tensor, level: tuple[float, float], place: Place) -> Tensor:
    """A disk of that radius, whose edge a small normal kernel softens."""
    radius, soft = (length * place.scale for length in level)
    return filtered(x, disk(radius, soft))


@register(
    "motion-blur",
    family="blur",
    small=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    large=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
)
def motion_blur(x: Tensor, level: tuple[float, float], place: Place) -> Tensor:
    """Past pixels along a line, 45 degrees at most from level, weigh less the farther they are."""
    radius, sigma = (length * place.scale for length in level)
    angles = place.draw(x, lambda _, dice: torch.rand((), generator=dice) * (math.pi / 2) - math.pi / 4)
    steps = torch.arange(2 * math.ceil(radius) + 1, device=x.device)
    weights = torch.exp(-(steps.double() ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum()).to(x.dtype)
    blurred = torch.zeros_like(x)
    for step, weight in zip(steps.tolist(), weights, strict=True):
        down, right = (step * angles.sin()).round().long(), (step * angles.cos()).round().long()
        blurred += weight * shifted(x, down, right)
    return blurred


@register("zoom-blur", family="blur", small=(6, 11, 16, 21, 26), large=(11, 16, (21, 2), (26, 2), (31, 3)))
def zoom_blur(x: Tensor, level: int | tuple[int, int], place: Place) -> Tensor:
    """The mean of the image and of its enlargements by 0, 1, 2 ... percent, in some levels by every second."""
    below, every = level if isinstance(level, tuple) else (level, 1)
    total, percents = x.clone(), range(0, below, every)
    for percent in percents:
        total += enlarged(x, 1 + percent / 100)
    return total / (len(percents) + 1)


def normal_line(sigma: float, half: int) -> Tensor:
    """Return the normal density at -half ... half, `[2 * half + 1]` float64 that add up to 1."""
    places = torch.arange(-half, half + 1, dtype=torch.float64)
    weights = torch.exp(-(places**2) / (2 * sigma**2))
    return weights / weights.sum()


def disk(radius: float, soft: float) -> Tensor:
    """Return a square kernel that adds up to 1: the pixels within `radius`, smoothed over 3 by 3 or 5 by 5."""
    edge = 1 if radius <= 8 else 2
    half = int(radius) + edge
    places = torch.arange(-half, half + 1, dtype=torch.float64)
    kernel = ((places[:, None] ** 2 + places[None, :] ** 2) <= radius**2).double()
    line = normal_line(soft, edge)
    smooth = F.conv2d(kernel[None, None] / kernel.sum(), (line[:, None] * line)[None, None], padding=edge)
    return smooth[0, 0]


def filtered(x: Tensor, kernel: Tensor) -> Tensor:
    """Return `[N, C, H, W]` images under a symmetric square kernel; borders are mirrored about the last pixel."""
    half, channels = kernel.shape[0] // 2, x.shape[1]
    rows, columns = (_mirrored(size, half).to(x.device) for size in x.shape[2:])
    padded = x[:, :, rows][:, :, :, columns]
    weight = kernel.to(x).expand(channels, 1, *kernel.shape)
    return F.conv2d(padded, weight, groups=channels)


def _mirrored(size: int, more: int) -> Tensor:
    """Return `[size + 2 * more]` indices that run on beyond both ends by turning back, as often as needed."""
    period = max(2 * (size - 1), 1)
    places = torch.arange(-more, size + more) % period
    return torch.minimum(places, (period - places) % period)


def shifted(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Return each image of `[N, C, H, W]` moved by its own `[N]` whole pixels, its border repeated."""
    height, width = x.shape[2:]
    rows = (torch.arange(height, device=x.device) - down[:, None]).clamp(0, height - 1)
    columns = (torch.arange(width, device=x.device) - right[:, None]).clamp(0, width - 1)
    images = torch.arange(len(x), device=x.device)[:, None, None]
    return x.permute(0, 2, 3, 1)[images, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def enlarged(x: Tensor, factor: float) -> Tensor:
    """Return the middle of `[N, C, H, W]` images, enlarged by `factor` to their own size, bilinearly."""
    if factor == 1:
        return x
    scale = torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]], dtype=x.dtype, device=x.device)
    grid = F.affine_grid(scale.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
