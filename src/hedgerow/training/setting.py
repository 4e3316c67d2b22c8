"""What a phase is given beside its parts, who listens to it, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from hedgerow.attacks import SparseCrafting
from hedgerow.pruners import Progress
from hedgerow.sparsity import Masks
from hedgerow.training.plan import Plan
from hedgerow.training.state import Standing

Metrics = dict[str, Any]


class Listener(Protocol):
    """Whoever wants to know how training goes: a log, a progress bar."""

    def start(self, phase: str, plan: Plan, standing: Standing, steps: int) -> None:
        """A phase starts, or goes on at `standing`; each epoch has `steps` optimiser steps."""

    def step(self, progress: Progress, images: int, loss: Tensor) -> None:
        """An optimiser step was taken on `images` images."""

    def epoch(self, metrics: Metrics) -> None:
        """An epoch has ended and was validated."""


@dataclass(kw_only=True)
class Setting:
    """Where and how a phase runs. `validate(model)` returns `clean` and `robust` validation accuracy, 0 to 1."""

    seed: int = 0
    phase: str = "train"
    folder: Path | None = None
    precision: str = "32-true"
    accelerator: str = "auto"
    channels_last: bool = False
    sync_bn: bool = False
    compile: bool = False
    recompute: bool = False
    sparse_crafting: SparseCrafting = "auto"
    save_every: float = 300.0
    validate: Callable[[nn.Module], dict[str, float]] | None = None
    listeners: tuple[Listener, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """A finished phase: the masks, what was selected, what it took; epochs count from 1.

    `images` counts a replayed image every time; `alarm_epoch` is the first whose robust accuracy collapsed.
    """

    masks: Masks
    epochs: int
    seconds: float = 0.0
    images: int = 0
    selected_epoch: int | None = None
    alarm_epoch: int | None = None
