"""The layer between pixels and network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hedgerow.errors import ModelError


class Normalize(nn.Module):
    """Map pixels in [0,1], `[N, C, H, W]`, to `(x - mean) / std`, channel by channel.

    It is part of the model, so that attacks and bounds work on pixels. `mean` and `std` hold one number per
    channel (or one for all) and become buffers `[C, 1, 1]`. Raises `ModelError` when their lengths differ,
    when a number is not finite, or when a standard deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not len(mean):
            raise ModelError(
                f"normalisation has {len(mean)} means and {len(std)} standard deviations; "
                "give one of each per channel"
            )
        if not all(map(math.isfinite, [*mean, *std])) or min(std) <= 0:
            raise ModelError(
                "normalisation needs finite means and positive standard deviations on the [0,1] pixel scale, "
                f"not mean={list(mean)}, std={list(std)}"
            )
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised images, of the shape of `x`."""
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        """Show both statistics when the model is printed."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"
