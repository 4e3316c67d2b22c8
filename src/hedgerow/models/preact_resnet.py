"""Pre-activation ResNet-18, the network of most work on adversarial training (arXiv 1603.05027)."""

from __future__ import annotations

from torch import nn

from hedgerow.models import MODELS
from hedgerow.models.parts import check_counts
from hedgerow.models.wide_resnet import PreActivationResNet


@MODELS.register("preact-resnet18")
def preact_resnet18(*, num_classes: int, channels: int, image_size: tuple[int, int], width: int = 64) -> nn.Module:
    """Pre-activation ResNet-18 with a 3x3 stem and no max-pool (arXiv 1603.05027).

    Stages of 2, 2, 2, 2 blocks, `width` (default 64) to `8 * width` channels, then batch norm and ReLU (the
    paper's appendix; some code leaves these two out); any `image_size`. Raises `ModelError` for a width below 1.
    """
    check_counts("preact-resnet18", width=width)
    widths = [width * 2**stage for stage in range(4)]
    return PreActivationResNet(num_classes=num_classes, channels=channels, stem=width, widths=widths, blocks=2)
