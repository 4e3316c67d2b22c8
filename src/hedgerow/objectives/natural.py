"""Natural training: no attacker."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.objectives.base import OBJECTIVES, Scalars, accuracy, check_smoothing


@OBJECTIVES.register("natural")
class Natural:
    """Cross-entropy on the images as they are; batch norm sees clean batches."""

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        check_smoothing(label_smoothing)
        self.label_smoothing = label_smoothing

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Scalars]:
        """Return the mean cross-entropy and the training accuracy."""
        logits = model(x)
        loss = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        return loss, {"train_accuracy": accuracy(logits, y)}
