"""MobileNetV2: inverted residuals around depthwise convolutions (arXiv 1801.04381)."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from hedgerow.errors import ModelError
from hedgerow.models import MODELS
from hedgerow.models.parts import Stem, conv, kaiming_, starts_large

STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and first stride of each stage (arXiv 1801.04381, Table 2)."""
STEM, HEAD = 32, 1280


def active(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution, batch norm and ReLU6."""
    return nn.Sequential(conv(inputs, outputs, kernel, stride, groups), nn.BatchNorm2d(outputs), nn.ReLU6())


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, depthwise 3x3, 1x1 without activation (1801.04381, Table 1).

    Maps `[N, inputs, H, W]` to `[N, outputs, ceil(H / stride), ceil(W / stride)]`; the input is added where the
    shape stays.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = nn.Sequential() if expansion == 1 else active(inputs, hidden, 1)
        self.depthwise = active(hidden, hidden, 3, stride, hidden)
        self.project = nn.Sequential(conv(hidden, outputs, 1), nn.BatchNorm2d(outputs))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the projected channels, plus `x` where the shapes agree."""
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.adds else out  # type: ignore[no-any-return]


def scaled(channels: int, width: float) -> int:
    """Return `width` times the channels as the nearest multiple of 8, at least 8 and never under 90 % of it."""
    wanted = channels * width
    nearest = max(8, int(wanted + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * wanted else nearest + 8


@MODELS.register("mobilenet-v2")
def mobilenet_v2(
    *, num_classes: int, channels: int, image_size: tuple[int, int], width: float = 1.0, stem: Stem = "auto"
) -> nn.Module:
    """MobileNetV2 without dropout, its first two strides 1 for small images (arXiv 1801.04381).

    `width` multiplies the channels of every layer, though the last convolution's only above 1; any `image_size`.
    `stem`: `imagenet` divides the size by 32, `cifar` by 8 (strides 1 in the first convolution and in the stage of
    24 channels), else by the size of the images. Raises `ModelError` for a width that is not positive and finite.
    """
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width < float("inf"):
        raise ModelError(
            f"model 'mobilenet-v2': width is {width!r}; it multiplies the channels, a positive number"
        )
    large = starts_large(stem, image_size, model="mobilenet-v2")
    inputs, last = scaled(STEM, width), scaled(HEAD, max(1.0, width))
    layers: list[nn.Module] = [active(channels, inputs, 3, 2 if large else 1)]
    for stage, (expansion, outputs, blocks, stride) in enumerate(STAGES):
        first = 1 if stage == 1 and not large else stride
        for index in range(blocks):
            layers.append(InvertedResidual(inputs, scaled(outputs, width), 1 if index else first, expansion))
            inputs = scaled(outputs, width)
    features = nn.Sequential(*layers, active(inputs, last, 1))
    classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, num_classes))
    return kaiming_(nn.Sequential(OrderedDict(features=features, classifier=classifier)))
