"""Plain convolutional networks without normalisation: small enough to certify."""

from __future__ import annotations

from torch import nn

from hedgerow.models import MODELS
from hedgerow.models.parts import cells_after, kaiming_


@MODELS.register("cnn-small")
def cnn_small(*, num_classes: int, channels: int, image_size: tuple[int, int]) -> nn.Module:
    """Two strided convolutions and two linear layers.

    Takes `[N, channels, H, W]`, returns logits `[N, num_classes]`. Raises `ModelError` below 4x4 pixels.
    """
    cells = cells_after(image_size, division=4, model="cnn-small")
    network = nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * cells, 100),
        nn.ReLU(),
        nn.Linear(100, num_classes),
    )
    return kaiming_(network)


@MODELS.register("cnn-large")
def cnn_large(*, num_classes: int, channels: int, image_size: tuple[int, int]) -> nn.Module:
    """Four convolutions, two of them strided, and three linear layers.

    Takes `[N, channels, H, W]`, returns logits `[N, num_classes]`. Raises `ModelError` below 4x4 pixels.
    """
    cells = cells_after(image_size, division=4, model="cnn-large")
    network = nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * cells, 512),
        nn.ReLU(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, num_classes),
    )
    return kaiming_(network)
