"""Residual networks with projection shortcuts, for small images and for those of ImageNet (arXiv 1512.03385)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hedgerow.errors import ModelError
from hedgerow.models import MODELS
from hedgerow.models.parts import Stem, conv, kaiming_, starts_large


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return a 1x1 convolution with batch norm where the shape changes, the identity elsewhere."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()  # empty, it leaves no node in a traced graph
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; ReLU after the sum (arXiv 1512.03385, Figure 5 left).

    Maps `[N, inputs, H, W]` to `[N, outputs, ceil(H / stride), ceil(W / stride)]`.
    """

    expansion = 1

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = conv(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut(inputs, outputs, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return `relu(residual(x) + shortcut(x))`."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.shortcut(x))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1 to a quarter of the channels, 3x3, 1x1 back, beside a shortcut (arXiv 1512.03385, Figure 5 right).

    Maps `[N, inputs, H, W]` to `[N, outputs, ceil(H / stride), ceil(W / stride)]`. The stride is that of the 3x3
    convolution, as in all widespread code; the paper's first 1x1 convolution would skip three of four positions.
    """

    expansion = 4

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = outputs // self.expansion
        self.conv1 = conv(inputs, hidden, 1)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.relu1 = nn.ReLU()
        self.conv2 = conv(hidden, hidden, 3, stride)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.relu2 = nn.ReLU()
        self.conv3 = conv(hidden, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut(inputs, outputs, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return `relu(residual(x) + shortcut(x))`."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu3(out + self.shortcut(x))  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """Stages of residual blocks, `blocks` in each; from stage to stage `width` doubles and the size halves.

    Begins with a 3x3 convolution, or, if `large`, with a 7x7 one and a max-pool that each halve the size. Takes
    `[N, channels, H, W]` of any size, returns logits `[N, num_classes]`. Raises `ModelError` when `width` is not a
    positive integer.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int,
        blocks: Sequence[int],
        width: int,
        block: type[BasicBlock | Bottleneck] = BasicBlock,
        large: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(width, int) or width < 1:
            raise ModelError(
                f"a ResNet's width is the channel count of its first stage, at least 1, not {width!r}"
            )
        self.conv = conv(channels, width, 7, 2) if large else conv(channels, width, 3)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.reduce = nn.MaxPool2d(3, 2, padding=1) if large else nn.Sequential()
        stages, inputs = [], width
        for index, count in enumerate(blocks):
            outputs = width * 2**index * block.expansion
            strides = [1 if index == 0 else 2] + [1] * (count - 1)
            widths = [inputs] + [outputs] * (count - 1)
            stages.append(nn.Sequential(*(block(w, outputs, s) for w, s in zip(widths, strides, strict=True))))
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(inputs, num_classes)
        kaiming_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, `[N, num_classes]`."""
        out = self.stages(self.reduce(self.relu(self.bn(self.conv(x)))))
        return self.fc(self.flatten(self.pool(out)))  # type: ignore[no-any-return]


@MODELS.register("resnet18")
def resnet18(
    *, num_classes: int, channels: int, image_size: tuple[int, int], width: int = 64, stem: Stem = "auto"
) -> nn.Module:
    """ResNet-18, with a 3x3 stem and no max-pool for small images (arXiv 1512.03385).

    Stages of 2, 2, 2, 2 blocks, `width` (default 64) to `8 * width` channels; any `image_size`. `stem`: `cifar`,
    `imagenet` (7x7 with stride 2, max-pool), or by the size of the images.
    """
    large = starts_large(stem, image_size, model="resnet18")
    return ResNet(num_classes=num_classes, channels=channels, blocks=(2, 2, 2, 2), width=width, large=large)


@MODELS.register("resnet20")
def resnet20(*, num_classes: int, channels: int, image_size: tuple[int, int], width: int = 16) -> nn.Module:
    """ResNet-20 for small images, with convolutional shortcuts (arXiv 1512.03385).

    Stages of 3, 3, 3 blocks, `width` (default 16) to `4 * width` channels; any `image_size`.
    """
    return ResNet(num_classes=num_classes, channels=channels, blocks=(3, 3, 3), width=width)


@MODELS.register("resnet50")
def resnet50(
    *, num_classes: int, channels: int, image_size: tuple[int, int], width: int = 64, stem: Stem = "auto"
) -> nn.Module:
    """ResNet-50 of bottleneck blocks, with a 3x3 stem and no max-pool for small images (arXiv 1512.03385).

    Stages of 3, 4, 6, 3 blocks, `4 * width` (`width` 64) to `32 * width` channels; any `image_size`. `stem`:
    `cifar`, `imagenet` (7x7 with stride 2, max-pool), or by the size of the images.
    """
    large = starts_large(stem, image_size, model="resnet50")
    return ResNet(
        num_classes=num_classes, channels=channels, blocks=(3, 4, 6, 3), width=width, block=Bottleneck, large=large
    )
