"""A run of less than a second, and workers that carry out cells in this very process."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from hedgerow.errors import HedgerowError
from hedgerow.executors import Ending, Task
from hedgerow.pipeline import run_one
from hedgerow.recipe import Recipe, apply, parse_recipe
from hedgerow.runfolder import RunFolder
from hedgerow.trial import run_trial

RAW: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "device": "cpu",
    "data": {"train_limit": 120, "validation": 20, "test_limit": 30},
    "threat": {"eps": 0.05},
    "objective": {"name": "natural"},
    "pruning": {"method": "hydra", "sparsity": 0.5},
    "phases": {
        "pretrain": {"epochs": 2, "lr": 0.1, "batch_size": 20},
        "prune": {"epochs": 1, "lr": 0.1, "batch_size": 20},
        "finetune": {"epochs": 1, "lr": 0.05, "batch_size": 20},
    },
    "evaluation": {
        "examples": 10,
        "pgd_steps": 1,
        "pgd_restarts": 1,
        "autoattack": False,
        "integrity": 0,
        "gallery": 0,
    },
}


def recipe(**changes: Any) -> Recipe:
    """Return the tiny recipe with `phases__prune__epochs=1` changes made."""
    return parse_recipe(apply(copy.deepcopy(RAW), {key.replace("__", "."): v for key, v in changes.items()}))


class InProcess:
    """Carries out a task when it is asked how it ended, evaluations only if told to; knows what was started."""

    def __init__(self, slots: int = 1, *, evaluate: bool = True) -> None:
        self.slots: int | None = slots
        self.evaluate = evaluate
        self.started: list[str] = []

    def start(self, task: Task, tell: Callable[[str], None]) -> Task:
        self.started.append(" ".join([task.name, *task.words]))
        return task

    def ended(self, handle: Task) -> Ending:
        folder = RunFolder(handle.folder)
        try:
            if handle.words:
                run_trial(folder.read_recipe(), folder.path)
            elif not self.evaluate:
                handle.done.touch()
            else:
                run_one(folder.read_recipe(), folder.path)
        except HedgerowError as error:
            return Ending(2, str(error))
        return Ending(0)

    def stop(self, handles: Sequence[Task]) -> None:
        pass

    def close(self) -> None:
        pass
