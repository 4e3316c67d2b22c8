"""Small phases to train, and what is needed to stop one and to compare two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hedgerow.data import Split, load_dataset
from hedgerow.evaluation import quick_accuracy
from hedgerow.objectives import PGDAdversarialTraining
from hedgerow.pruners import Dense, FixedMask, Hydra, Magnitude, Pruner
from hedgerow.sparsity import Budget, Masks
from hedgerow.threat import ThreatModel
from hedgerow.training import MetricsFile, Outcome, Plan, Setting, train

THREAT = ThreatModel("linf", 0.1)
CLOCK = ("seconds", "images_per_second")
EPOCHS, STEPS = 3, 4  # 120 images in batches of 32


def digits() -> Split:
    return load_dataset("digits", train_limit=140, validation=20).train


def model(seed: int = 0) -> nn.Module:
    """Has everything that could be forgotten in a checkpoint: running statistics, dropout, biases."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(216, 10),
    )


def plan(**changes: Any) -> Plan:
    common: dict[str, Any] = {"epochs": EPOCHS, "lr": 0.05, "batch_size": 32, "augment": ("crop", "flip")}
    return Plan(**{**common, **changes})


def magnitude_masks(net: nn.Module, sparsity: float) -> Masks:
    pruner = Magnitude()
    pruner.attach(net, Budget(sparsity))
    return pruner.finish()


PHASES: dict[str, Callable[[nn.Module], Pruner]] = {
    "pretrain": lambda net: Dense(),
    "prune": lambda net: Hydra(),
    "finetune": lambda net: FixedMask(magnitude_masks(net, 0.7)),
}


class Stop(Exception):  # noqa: N818 - it stands for a power cut
    """The interruption."""


@dataclass
class Recorder:
    """Keep every loss; raise `Stop` after the given step of an epoch, or at the end of an epoch (step None)."""

    stop: tuple[int, int | None] | None = None
    losses: dict[tuple[int, int], float] = field(default_factory=dict)
    epochs: list[dict[str, Any]] = field(default_factory=list)

    def start(self, phase: str, plan: Plan, standing: Any, steps: int) -> None:
        assert steps == STEPS

    def step(self, progress: Any, images: int, loss: Tensor) -> None:
        self.losses[progress.epoch, progress.step] = loss.item()
        if self.stop == (progress.epoch, progress.step):
            raise Stop

    def epoch(self, metrics: dict[str, Any]) -> None:
        if self.stop == (metrics["epoch"] - 1, None):
            raise Stop
        self.epochs.append(metrics)


class StoppingObjective(PGDAdversarialTraining):
    """Raise `Stop` in the forward pass of the call with the given number."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__(THREAT, steps=2)
        self.stop_at, self.calls = stop_at, 0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: Any = None) -> Any:
        if self.calls == self.stop_at:
            raise Stop
        self.calls += 1
        return super().__call__(model, x, y, generator)


@dataclass
class Trained:
    """All that two equal runs must have equal."""

    outcome: Outcome
    state: dict[str, Tensor]
    losses: dict[tuple[int, int], float]
    metrics: list[dict[str, Any]]


def run_phase(
    split: Split,
    phase: str,
    folder: Path | None,
    *,
    how: Plan | None = None,
    pruner: Callable[[nn.Module], Pruner] | None = None,
    recorder: Recorder | None = None,
    stop_at: int | None = None,
    save_every: float = 300.0,
    sparsity: float = 0.7,
) -> Trained:
    """Train one phase in a fresh process's place: new model, new pruner, new optimiser."""
    net = model()
    recorder = recorder or Recorder()
    made = (pruner or PHASES[phase])(net)
    metrics = MetricsFile(folder / "metrics.jsonl") if folder else None
    x, y = split.pixels(slice(0, 40)), split.labels[:40]
    setting = Setting(
        seed=3,
        phase=phase,
        folder=folder,
        save_every=save_every,
        accelerator="cpu",
        validate=lambda m: quick_accuracy(m, x, y, threat=THREAT, steps=2),
        listeners=(metrics, recorder) if metrics else (recorder,),
    )
    outcome = train(
        net,
        split,
        StoppingObjective(stop_at),
        plan=how or plan(),
        pruner=made,
        budget=Budget(sparsity),
        setting=setting,
    )
    return Trained(outcome, net.state_dict(), recorder.losses, recorder.epochs)


def same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Compare bit for bit: names, dtypes and bytes, so that -0 differs from 0."""
    return list(one) == list(other) and all(
        a.dtype == b.dtype and a.cpu().numpy().tobytes() == b.cpu().numpy().tobytes()
        for a, b in zip(one.values(), other.values(), strict=True)
    )


def without_clock(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in m.items() if k not in CLOCK} for m in metrics]
