"""Networks of a user's own."""

from __future__ import annotations

from torch import nn


def linear(*, num_classes: int, channels: int, image_size: tuple[int, int]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size[0] * image_size[1], num_classes))
