"""What an objective is: a loss that knows about the attacker and nothing about pruning."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hedgerow.registry import Registry

Scalars = dict[str, Tensor]


class Objective(Protocol):
    """`(model, x, y, generator) -> (loss, named scalars)`.

    `x` is `[N, ...]` float in [0,1], `y` `[N]` int64; the loss is a scalar with a graph to the parameters.
    Scalars are detached; `train_accuracy` is the share of the batch that is classified correctly in the
    training forward on the inputs the objective trains on. Crafting changes no gradient and no buffer.
    """

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Scalars]:
        """Return the loss of one batch and what to log of it."""
        ...


OBJECTIVES: Registry[Any] = Registry("objective")


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the share of `[N, C]` logits whose largest entry is the label, as a detached 0-d float tensor."""
    return (logits.detach().argmax(1) == y).float().mean()
