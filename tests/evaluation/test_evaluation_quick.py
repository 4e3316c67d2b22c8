"""The yardstick of model selection takes images of any size in batches of about the same memory."""

import torch
from torch import nn

from hedgerow.evaluation import quick_accuracy
from hedgerow.threat import ThreatModel


class Watching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        bright = x.flatten(1).mean(1)
        return torch.stack([0.5 - bright, bright - 0.5], 1)


def test_large_images_come_in_small_batches_and_count_alike() -> None:
    dice = torch.Generator().manual_seed(0)
    shade = torch.rand(40, 1, 1, 1, generator=dice)
    labels = (shade.flatten() > 0.5).long()
    threat = ThreatModel("linf", 0.1)
    scores = []
    for size, largest in ((8, 40), (256, 7)):
        model = Watching()
        images = shade.expand(40, 3, size, size).contiguous()
        scores.append(quick_accuracy(model, images, labels, threat=threat, steps=12))
        assert max(model.seen) == largest
    assert scores[0] == scores[1]
    expected = int(((shade.flatten() - 0.5).abs() > 0.1).sum()) / 40
    assert scores[0] == {"clean": 1.0, "robust": expected}
