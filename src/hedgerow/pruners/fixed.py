"""Masks that are decided: dense training and fine-tuning are pruners too, so the loop has no special case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from hedgerow.pruners.base import Pruner
from hedgerow.sparsity import Budget, Masks, attach_masks


class Dense(Pruner):
    """Keep every weight."""

    averages: ClassVar[bool] = True

    def finish(self) -> Masks:
        """Return masks that are True everywhere."""
        return {name: torch.ones_like(w.dense, dtype=torch.bool) for name, w in self.weights.items()}


class FixedMask(Pruner):
    """Train the kept weights, biases and normalisation under masks that no longer change."""

    averages: ClassVar[bool] = True

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.masks = dict(masks)

    def attach(self, model: nn.Module, budget: Budget | None = None, *, example: Tensor | None = None) -> None:
        """Put the masks on the model, whatever the budget; `ModelError` if they are of another model."""
        super().attach(model, budget or Budget(0), example=example)
        attach_masks(model, self.masks)

    def finish(self) -> Masks:
        """Return the same masks; the model is plain, with exact zeros."""
        return self.hand_over(self.masks)
