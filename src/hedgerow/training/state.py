"""Where a phase stands: written whole, read back exactly, the one before kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from hedgerow.errors import CheckpointError
from hedgerow.files import load_checkpoint, save_checkpoint
from hedgerow.objectives import Objective, restore, state_of
from hedgerow.pruners import Pruner
from hedgerow.team import team
from hedgerow.training.average import Average


@dataclass
class Standing:
    """Position and running sums of a phase; with its `Parts` this is all of its state.

    `step` counts the optimiser steps of the epoch, several on every batch if the objective replays it. Randomness
    needs no state: every step derives its own from (seed, phase, epoch, step).
    """

    epoch: int = 0
    step: int = 0
    best_epoch: int = -1
    best_score: float = -1.0
    alarm_epoch: int = -1
    seconds: float = 0.0
    images: int = 0
    epoch_seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count what is done inside as time of training."""
        before = time.monotonic()
        yield
        spent = time.monotonic() - before
        self.seconds += spent
        self.epoch_seconds += spent


@dataclass
class Parts:
    """What of a phase has a state that changes with every step."""

    model: nn.Module
    optimizer: Optimizer
    pruner: Pruner
    objective: Objective
    average: Average | None = None


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of one phase in a run folder; None for a run that leaves no trace."""

    folder: Path | None
    phase: str

    @property
    def last(self) -> Path | None:
        """The newest state."""
        return self.folder and self.folder / f"{self.phase}-last.pt"

    @property
    def previous(self) -> Path | None:
        """The state before the newest."""
        return self.folder and self.folder / f"{self.phase}-previous.pt"

    @property
    def best(self) -> Path | None:
        """The model of the best epoch so far."""
        return self.folder and self.folder / f"{self.phase}-best.pt"

    def remove(self) -> None:
        """Delete them, once the phase's result is safe."""
        for path in (self.last, self.previous, self.best):
            if path:
                path.unlink(missing_ok=True)


def save_state(files: CheckpointFiles, parts: Parts, standing: Standing) -> None:
    """Write the newest state; the newest so far becomes the previous one."""
    if files.last is None or files.previous is None or not team().first:
        return
    if files.last.exists():
        files.last.replace(files.previous)
    state = {
        "model": parts.model.state_dict(),
        "optimizer": parts.optimizer.state_dict(),
        "pruner": parts.pruner.state_dict(),
        "objective": state_of(parts.objective),
        "average": parts.average.state_dict() if parts.average else None,
        "standing": asdict(standing),
    }
    save_checkpoint(files.last, state)


def load_state(files: CheckpointFiles, parts: Parts) -> Standing | None:
    """Put the parts of a phase where the newest state left them; None when there is no state."""
    path = next((p for p in (files.last, files.previous) if p is not None and p.exists()), None)
    if path is None:
        return None
    state = load_checkpoint(path)
    try:
        _check_options(state["optimizer"], parts.optimizer)
        parts.model.load_state_dict(state["model"])
        parts.optimizer.load_state_dict(state["optimizer"])
        parts.pruner.load_state_dict(state["pruner"])
        restore(parts.objective, state.get("objective", {}))
        _load_average(parts, state.get("average"))
        return Standing(**state["standing"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: this checkpoint is of another run ({error}). Resume with the recipe it was made by, or "
            "choose another --out"
        ) from error


def _load_average(parts: Parts, state: dict[str, Any] | None) -> None:
    if (parts.average is None) != (state is None):
        raise ValueError(f"its weights were {'not ' if state is None else ''}averaged (ema)")
    if parts.average is not None and state is not None:
        parts.average.load_state_dict(state)


def _check_options(saved: dict[str, Any], optimizer: Optimizer) -> None:
    # PyTorch would take the saved options, and even those of another optimiser, in place of the plan's.
    then, now = (
        [{key: value for key, value in group.items() if key != "lr"} for group in state["param_groups"]]
        for state in (saved, optimizer.state_dict())
    )
    if then != now:
        raise ValueError(f"its optimiser has the options {then}, this one {now}")


def save_best(files: CheckpointFiles, model: nn.Module, memory: dict[str, Any]) -> None:
    """Keep the model's current state as the best so far (on disk, or in memory without a folder)."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    if files.best is None:
        memory["best"] = state
    else:
        save_checkpoint(files.best, {"model": state})


def load_best(files: CheckpointFiles, model: nn.Module, memory: dict[str, Any]) -> None:
    """Return the model to the best state kept."""
    model.load_state_dict(memory["best"] if files.best is None else load_checkpoint(files.best)["model"])
