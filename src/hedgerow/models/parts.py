"""What the reference networks share: convolutions, initial weights, sizes after striding."""

from __future__ import annotations

from torch import nn

from hedgerow.errors import ModelError


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution for use beside batch norm: no bias, size-preserving at stride 1 (`kernel` odd)."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


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
