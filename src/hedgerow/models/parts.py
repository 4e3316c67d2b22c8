"""What the reference networks share: convolutions, stems, initial weights, sizes and checked options."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from hedgerow.errors import ModelError

Stem = Literal["auto", "cifar", "imagenet"]
LARGE = 128
"""From this many pixels on the shorter side an image counts as a large one, as those of ImageNet."""


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a convolution for use beside batch norm: no bias, size-preserving at stride 1 (`kernel` odd)."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


def kaiming_(network: nn.Module) -> nn.Module:
    """Draw every Conv2d and Linear weight from the fan-in Kaiming normal, zero the biases (arXiv 1502.01852).

    Works in place on the global generator and returns `network`; normalisation keeps torch's scale 1, bias 0.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def is_large(image_size: tuple[int, int]) -> bool:
    """Return whether both sides have at least `LARGE` pixels."""
    return min(image_size) >= LARGE


def starts_large(stem: str, image_size: tuple[int, int], *, model: str) -> bool:
    """Return whether `model` begins as its paper has it for ImageNet, rather than in the form for small images.

    `auto` goes by the size of the images. Raises `ModelError` for a stem that is not known.
    """
    if stem not in get_args(Stem):
        raise ModelError(f"model {model!r}: stem is {stem!r}; allowed: {', '.join(get_args(Stem))}")
    return is_large(image_size) if stem == "auto" else stem == "imagenet"


def check_counts(model: str, **options: object) -> None:
    """Raise `ModelError` for the first option that is not a whole number of at least 1."""
    for name, value in options.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(f"model {model!r}: {name} must be a whole number of at least 1, not {value!r}")


def cells_after(image_size: tuple[int, int], *, division: int, model: str) -> int:
    """Return the positions left of an image once each side is divided by `division`, rounding down.

    Raises `ModelError` with the smallest size that works when a side vanishes.
    """
    height, width = image_size
    if min(height, width) < division:
        raise ModelError(
            f"model {model!r} cannot take {height}x{width} images: it divides each side by {division}. "
            f"The smallest size that works is {division}x{division}; enlarge the images or change the model"
        )
    return (height // division) * (width // division)
