"""Digital: light and colour as a camera sets them, coarse pixels, compression (1903.12261, section 3)."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hedgerow.corruptions.base import Place, register


@register("contrast", family="digital", small=(0.75, 0.5, 0.4, 0.3, 0.15), large=(0.4, 0.3, 0.2, 0.1, 0.05))
def contrast(x: Tensor, share: float, place: Place) -> Tensor:
    """Every value keeps that share of its distance to the mean of its channel."""
    mean = x.mean((2, 3), keepdim=True)
    return mean + share * (x - mean)


@register("brightness", family="digital", small=(0.05, 0.1, 0.15, 0.2, 0.3), large=(0.1, 0.2, 0.3, 0.4, 0.5))
def brightness(x: Tensor, more: float, place: Place) -> Tensor:
    """The V of HSV grows by so much, hue and saturation stay."""
    value = x.amax(1, keepdim=True)
    brighter = (value + more).clamp_max(1.0)
    return torch.where(value > 0, x * (brighter / value.clamp_min(torch.finfo(x.dtype).tiny)), brighter)


@register(
    "saturate",
    family="digital",
    small=((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    large=((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    channels=(3,),
)
def saturate(x: Tensor, level: tuple[float, float], place: Place) -> Tensor:
    """The S of HSV is multiplied, and something added; a grey pixel, which has no hue, is taken as red."""
    factor, more = level
    value = x.amax(1, keepdim=True)
    depth = value - x
    saturation = depth.amax(1, keepdim=True) / torch.where(value > 0, value, torch.ones_like(value))
    wanted = (saturation * factor + more).clamp(0.0, 1.0)
    grey = saturation == 0
    deeper = depth * (wanted / torch.where(grey, torch.ones_like(saturation), saturation))
    red = torch.tensor([0.0, 1.0, 1.0], dtype=x.dtype, device=x.device).view(1, 3, 1, 1) * value * wanted
    return value - torch.where(grey, red, deeper)


@register("pixelate", family="digital", small=(0.95, 0.9, 0.85, 0.75, 0.65), large=(0.6, 0.5, 0.4, 0.3, 0.25))
def pixelate(x: Tensor, share: float, place: Place) -> Tensor:
    """The image is shrunk to that share of its sides by means over boxes, and enlarged again without smoothing."""
    for dim in (2, 3):
        x = _coarse(x.movedim(dim, -1), share).movedim(-1, dim)
    return x


def _coarse(x: Tensor, share: float) -> Tensor:
    size = x.shape[-1]
    boxes = max(1, int(size * share))
    twice = (2 * torch.arange(size) + 1) * boxes  # centres, exactly: 2 * size of these units are a box
    # A pixel belongs to the box in which its centre lies, as in Pillow; one on an edge to the box before it.
    box = (twice + 2 * size - 1) // (2 * size) - 1
    member = (box[None, :] == torch.arange(boxes)[:, None]).to(x)
    means = x @ (member / member.sum(1, keepdim=True)).T
    return means[..., (twice // (2 * size)).to(x.device)]


@register("jpeg", family="digital", small=(80, 65, 58, 50, 40), large=(25, 18, 15, 10, 7), channels=(1, 3))
def jpeg(x: Tensor, quality: int, place: Place) -> Tensor:
    """8-bit values go through a JPEG file of that quality, by Pillow, image by image."""
    return place.draw(x, lambda image, _: _compressed(image, quality))


def _compressed(image: Tensor, quality: int) -> Tensor:
    values = (image.float() * 255).round().to(torch.uint8)
    pixels = values.permute(1, 2, 0).numpy() if len(values) == 3 else values[0].numpy()
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=quality)
    with Image.open(file) as read:
        found = torch.from_numpy(np.array(read)).to(image.dtype) / 255
    return found.permute(2, 0, 1) if found.dim() == 3 else found[None]
