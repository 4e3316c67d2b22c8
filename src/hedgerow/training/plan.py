"""How one phase is optimised: the optimiser, the learning rate over time, what is kept at the end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

OptimiserName = Literal["sgd", "adam", "adamw"]
ScheduleName = Literal["cosine", "constant", "step", "triangle"]
Select = Literal["best", "last"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings of one training phase; the defaults are the published ones for CIFAR (2002.10509).

    `select`: `best` keeps the epoch of highest robust validation accuracy (the earliest of equals), `last` the
    final one. `augment` names functions of `hedgerow.data.AUGMENTATIONS`. `ema`: decay, in [0, 1), of the average
    of the weights over all steps that is validated, selected and handed over in their place; None for no average.
    """

    epochs: int
    lr: float = 0.1
    batch_size: int = 128
    optimizer: OptimiserName = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: ScheduleName = "cosine"
    warmup: float = 0.0
    select: Select = "best"
    augment: tuple[str, ...] = ()
    ema: float | None = None


def build_optimizer(groups: list[dict[str, Any]], plan: Plan) -> Optimizer:
    """Return the plan's optimiser over parameter groups; options that a group fixes itself win."""
    if plan.optimizer == "sgd":
        return SGD(groups, lr=plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay)
    kind = Adam if plan.optimizer == "adam" else AdamW
    return kind(groups, lr=plan.lr, betas=(plan.momentum, 0.999), weight_decay=plan.weight_decay)


def learning_rate(plan: Plan, done: float) -> float:
    """Return the learning rate when the share `done` (0 to 1) of the phase's steps has been taken.

    The first `warmup` share rises linearly. Then: `cosine` falls to 0, `constant` stays, `step` divides by 10 at
    1/2 and 3/4, `triangle` falls linearly to 0.
    """
    if done < plan.warmup:
        return plan.lr * max(done / plan.warmup, 1e-3)
    rest = (done - plan.warmup) / (1.0 - plan.warmup)
    factor = {
        "cosine": 0.5 * (1.0 + math.cos(math.pi * rest)),
        "constant": 1.0,
        "step": 0.1 ** ((rest >= 0.5) + (rest >= 0.75)),
        "triangle": 1.0 - rest,
    }[plan.schedule]
    return plan.lr * factor


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def all_finite(model: torch.nn.Module) -> bool:
    """Return whether no parameter or buffer holds NaN or infinity."""
    return all(bool(t.isfinite().all()) for t in model.state_dict().values() if t.is_floating_point())
