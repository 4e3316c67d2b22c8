"""Random changes to training images, drawn per image and applied to the whole batch at once.

An augmentation takes images `[N, C, H, W]` (uint8 or float) and a generator and returns the same shape and
dtype on the same device. Drawing on the generator's device keeps a batch the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from hedgerow.registry import Registry

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")


@AUGMENTATIONS.register("crop")
def crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image at random by up to an eighth of its size; what moves in is zero (4 pixels at 32)."""
    n, _, height, width = images.shape
    pad_y, pad_x = height // 8, width // 8
    padded = functional.pad(images, (pad_x, pad_x, pad_y, pad_y))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # every crop of every image, as a view
    top = _integers(n, 2 * pad_y + 1, generator, images.device)
    left = _integers(n, 2 * pad_x + 1, generator, images.device)
    return windows[torch.arange(n, device=images.device), :, top, left]


@AUGMENTATIONS.register("flip")
def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half."""
    mirrored = _integers(len(images), 2, generator, images.device).bool()
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def _integers(n: int, below: int, generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.randint(below, (n,), generator=generator, device=generator.device).to(device)
