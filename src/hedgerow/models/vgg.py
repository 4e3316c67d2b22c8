"""VGG-16 with batch norm, in the form the pruning papers use on small images (arXiv 1409.1556)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from hedgerow.models import MODELS
from hedgerow.models.parts import cells_after, conv, kaiming_

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


@MODELS.register("vgg16-bn")
def vgg16_bn(*, num_classes: int, channels: int, image_size: tuple[int, int]) -> nn.Module:
    """VGG-16 with batch norm and four max-pools (arXiv 1409.1556).

    No pool follows the last stage, and the head is `512 * cells -> 256 -> 256 -> num_classes` (2048 inputs at
    32x32 pixels). Takes `[N, channels, H, W]`, returns logits `[N, num_classes]`. Raises `ModelError` below
    16x16 pixels.
    """
    cells = cells_after(image_size, division=2 ** (len(STAGES) - 1), model="vgg16-bn")
    features: list[nn.Module] = []
    width = channels
    for index, stage in enumerate(STAGES):
        if index > 0:
            features.append(nn.MaxPool2d(2))
        for outputs in stage:
            features += [conv(width, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU()]
            width = outputs
    classifier = nn.Sequential(
        nn.Flatten(),
        nn.Linear(width * cells, 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, num_classes),
    )
    return kaiming_(nn.Sequential(OrderedDict(features=nn.Sequential(*features), classifier=classifier)))
