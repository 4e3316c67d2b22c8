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
    training forward on the inputs the objective trains on, `attacked_accuracy` the same on the adversarial inputs
    it made, if it made any. Crafting changes no gradient and no buffer.

    An objective may also have `replays`, the optimiser steps that every batch gets (1 without it);
    `progress(done)`, to be told before each step which share of the phase's steps, in [0, 1), is behind it; and
    `state_dict` and `load_state_dict` for what it keeps between calls.
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


def replays_of(objective: Objective) -> int:
    """Return how many optimiser steps the objective takes on every batch."""
    return int(getattr(objective, "replays", 1))


def tell_progress(objective: Objective, done: float) -> None:
    """Tell an objective that has a schedule which share of the phase's steps, in [0, 1), is behind it."""
    listen = getattr(objective, "progress", None)
    if listen:
        listen(done)


def state_of(objective: Objective) -> dict[str, Any]:
    """Return what an objective keeps between calls; nothing for one that has no state."""
    save = getattr(objective, "state_dict", None)
    return dict(save()) if save else {}


def restore(objective: Objective, state: dict[str, Any]) -> None:
    """Give an objective its state back; `ValueError` when it is one that has none."""
    load = getattr(objective, "load_state_dict", None)
    if load:
        load(state)
    elif state:
        raise ValueError(f"it holds {', '.join(state)} of another objective than {type(objective).__name__}")


def check_smoothing(label_smoothing: float) -> None:
    """Raise `ValueError` unless the share of the label that goes to all classes is in [0, 1)."""
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing is {label_smoothing}; it is a share of the label and lies in [0, 1)")
