"""Residual networks for small images: 3x3 stem, no max-pool, projection shortcuts (arXiv 1512.03385)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hedgerow.errors import ModelError
from hedgerow.models import MODELS
from hedgerow.models.parts import conv, kaiming_


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; ReLU after the sum (arXiv 1512.03385, Figure 5 left).

    Maps `[N, inputs, H, W]` to `[N, outputs, ceil(H / stride), ceil(W / stride)]`. The shortcut is a 1x1
    convolution with batch norm where the shape changes, the input itself elsewhere.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = conv(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        # An empty Sequential is the identity, and leaves no node in a traced graph.
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return `relu(residual(x) + shortcut(x))`."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.shortcut(x))  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """Stages of basic blocks, `blocks` in each; from stage to stage `width` doubles and the size halves.

    Takes `[N, channels, H, W]` of any size, returns logits `[N, num_classes]`. Raises `ModelError` when
    `width` is not a positive integer.
    """

    def __init__(self, *, num_classes: int, channels: int, blocks: Sequence[int], width: int) -> None:
        super().__init__()
        if not isinstance(width, int) or width < 1:
            raise ModelError(
                f"a ResNet's width is the channel count of its first stage, at least 1, not {width!r}"
            )
        self.conv = conv(channels, width, 3)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        stages, inputs = [], width
        for index, count in enumerate(blocks):
            outputs = width * 2**index
            strides = [1 if index == 0 else 2] + [1] * (count - 1)
            widths = [inputs] + [outputs] * (count - 1)
            stages.append(
                nn.Sequential(*(BasicBlock(w, outputs, s) for w, s in zip(widths, strides, strict=True)))
            )
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(inputs, num_classes)
        kaiming_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, `[N, num_classes]`."""
        out = self.stages(self.relu(self.bn(self.conv(x))))
        return self.fc(self.flatten(self.pool(out)))  # type: ignore[no-any-return]


@MODELS.register("resnet18")
def resnet18(*, num_classes: int, channels: int, image_size: tuple[int, int], width: int = 64) -> nn.Module:
    """ResNet-18 with a 3x3 stem and no max-pool (arXiv 1512.03385).

    Stages of 2, 2, 2, 2 blocks, `width` (default 64) to `8 * width` channels; any `image_size`.
    """
    return ResNet(num_classes=num_classes, channels=channels, blocks=(2, 2, 2, 2), width=width)


@MODELS.register("resnet20")
def resnet20(*, num_classes: int, channels: int, image_size: tuple[int, int], width: int = 16) -> nn.Module:
    """ResNet-20 for small images, with convolutional shortcuts (arXiv 1512.03385).

    Stages of 3, 3, 3 blocks, `width` (default 16) to `4 * width` channels; any `image_size`.
    """
    return ResNet(num_classes=num_classes, channels=channels, blocks=(3, 3, 3), width=width)
