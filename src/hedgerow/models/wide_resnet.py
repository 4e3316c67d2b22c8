"""Wide residual networks: normalisation and ReLU before each convolution (arXiv 1605.07146)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hedgerow.errors import ModelError
from hedgerow.models import MODELS
from hedgerow.models.parts import conv, kaiming_


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, beside a shortcut (arXiv 1605.07146, Figure 1).

    Maps `[N, inputs, H, W]` to `[N, outputs, ceil(H / stride), ceil(W / stride)]`. Where the shape changes,
    the shortcut is a 1x1 convolution of the activated input; elsewhere it is the input itself.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.conv2 = conv(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return `residual(x) + shortcut(x)`."""
        active = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        kept = x if self.shortcut is None else self.shortcut(active)
        return out + kept  # type: ignore[no-any-return]


class PreActivationResNet(nn.Module):
    """Stages of `blocks` pre-activation blocks between a 3x3 convolution and batch norm, ReLU, mean (1603.05027).

    `stem` channels at the start, then those in `widths`, a stage each; every stage but the first halves the size.
    Takes `[N, channels, H, W]` of any size, returns logits `[N, num_classes]`.
    """

    def __init__(self, *, num_classes: int, channels: int, stem: int, widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.conv = conv(channels, stem, 3)
        made, inputs = [], stem
        for stage, outputs in enumerate(widths):
            for index in range(blocks):
                made.append(PreActivationBlock(inputs, outputs, 2 if stage and not index else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*made)
        self.bn = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(inputs, num_classes)
        kaiming_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, `[N, num_classes]`."""
        out = self.relu(self.bn(self.blocks(self.conv(x))))
        return self.fc(self.flatten(self.pool(out)))  # type: ignore[no-any-return]


class WideResNet(PreActivationResNet):
    """A wide residual network of `depth` layers, `16 * width` to `64 * width` channels, without dropout.

    Takes `[N, channels, H, W]` of any size, returns logits `[N, num_classes]`. Raises `ModelError` unless
    `depth` is `6 n + 4` with n >= 1 and `width` a positive integer.
    """

    def __init__(self, *, num_classes: int, channels: int, depth: int, width: int) -> None:
        if not isinstance(depth, int) or depth < 10 or (depth - 4) % 6:
            raise ModelError(f"a wide ResNet's depth is 6 n + 4 (10, 16, 22, 28, 34 ...), not {depth!r}")
        if not isinstance(width, int) or width < 1:
            raise ModelError(f"a wide ResNet's width is a factor of at least 1 on 16 channels, not {width!r}")
        widths = [16 * width * 2**stage for stage in range(3)]
        super().__init__(
            num_classes=num_classes, channels=channels, stem=16, widths=widths, blocks=(depth - 4) // 6
        )


@MODELS.register("wrn-28-4")
def wide_resnet(
    *, num_classes: int, channels: int, image_size: tuple[int, int], depth: int = 28, width: int = 4
) -> nn.Module:
    """Pre-activation wide ResNet, 28 layers deep and 4 times as wide (arXiv 1605.07146).

    `depth` is `6 n + 4`; any `image_size`. Raises `ModelError` on another depth or a width below 1.
    """
    return WideResNet(num_classes=num_classes, channels=channels, depth=depth, width=width)


@MODELS.register("wrn-28-10")
def wide_resnet_10(
    *, num_classes: int, channels: int, image_size: tuple[int, int], depth: int = 28, width: int = 10
) -> nn.Module:
    """Pre-activation wide ResNet, 28 layers deep and 10 times as wide (arXiv 1605.07146).

    Options and errors are those of `wrn-28-4`; any `image_size`.
    """
    return WideResNet(num_classes=num_classes, channels=channels, depth=depth, width=width)
