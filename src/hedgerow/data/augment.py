"""Random changes to training images, drawn per image and applied to the whole batch at once.

An augmentation takes images `[N, C, H, W]` (uint8 or float) and a generator and returns the same shape and
dtype on the same device. Drawing on the generator's device keeps a batch the same on every machine (where
images are scaled: up to rounding).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from hedgerow.data.crops import TRIES, random_box
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


@AUGMENTATIONS.register("resized-crop")
def resized_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Scale a random part of each image, 8 % to 100 % of it, up to the whole size (1409.4842, section 6).

    Of streamed images the part is cut out of the file's own pixels instead, while it is decoded.
    """
    n, _, height, width = images.shape
    dice = torch.rand(n, TRIES, 4, generator=generator, device=generator.device).tolist()
    boxes = torch.tensor([random_box(width, height, tries) for tries in dice])
    left, top, right, bottom = (boxes / torch.tensor([width, height, width, height])).unbind(1)
    theta = torch.zeros(n, 2, 3)  # in the grid's units the image is 2 wide, with 0 in the middle
    theta[:, 0, 0], theta[:, 0, 2] = right - left, left + right - 1
    theta[:, 1, 1], theta[:, 1, 2] = bottom - top, top + bottom - 1
    grid = functional.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    drawn = functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return drawn if images.is_floating_point() else drawn.round_().clamp_(0, 255).to(images.dtype)


def _integers(n: int, below: int, generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.randint(below, (n,), generator=generator, device=generator.device).to(device)
