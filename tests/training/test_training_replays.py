"""Objectives that take several steps on every batch: how they are counted, and that they resume exactly."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import phase_cases
import pytest
import torch
from phase_cases import THREAT, Recorder, Stop, same_state, without_clock
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.data import Split, epoch_batches
from hedgerow.errors import CheckpointError
from hedgerow.objectives import FreeAdversarialTraining, Natural
from hedgerow.pruners import Dense, FixedMask, Pruner
from hedgerow.seeds import derive
from hedgerow.training import MetricsFile, Plan, Setting, learning_rate, read_metrics, train

REPLAYS = 3
STEPS = 4 * REPLAYS  # of an epoch: 120 images in batches of 32


class Steps(Recorder):
    def start(self, phase: str, plan: Plan, standing: Any, steps: int) -> None:
        self.steps = steps


class Counting(Dense):
    def attach(self, *given: Any, **named: Any) -> None:
        super().attach(*given, **named)
        self.seen: list[Any] = []

    def after_step(self, progress: Any) -> None:
        self.seen.append(progress)


def run(
    split: Split,
    folder: Path | None = None,
    *,
    recorder: Steps | None = None,
    pruner: Pruner | None = None,
    objective: Any = None,
    **options: Any,
) -> tuple[nn.Module, Any, Steps]:
    net, recorder = phase_cases.model(), recorder or Steps()
    listeners = (recorder, MetricsFile(folder / "metrics.jsonl")) if folder else (recorder,)
    setting = Setting(seed=3, phase="pretrain", folder=folder, accelerator="cpu", listeners=listeners, **options)
    objective = objective or FreeAdversarialTraining(THREAT, replays=REPLAYS)
    outcome = train(net, split, objective, plan=phase_cases.plan(epochs=2), pruner=pruner, setting=setting)
    return net, outcome, recorder


def test_every_replay_is_an_optimiser_step_and_counts_as_one(split: Split) -> None:
    pruner = Counting()
    _, outcome, recorder = run(split, pruner=pruner)
    places = [(epoch, step) for epoch in range(2) for step in range(STEPS)]
    assert recorder.steps == STEPS
    assert list(recorder.losses) == places
    assert [(p.epoch, p.step, p.steps) for p in pruner.seen] == [(*place, STEPS) for place in places]
    assert [p.epoch_ends for p in pruner.seen] == [step == STEPS - 1 for _, step in places]
    assert [p.fraction for p in pruner.seen] == pytest.approx([i / 24 for i in range(1, 25)])
    assert outcome.images == 2 * REPLAYS * 120
    assert outcome.epochs == 2


def test_the_loop_with_free_training_equals_the_paper_written_out(split: Split) -> None:
    """Plain tensors, no loop of ours: batches, learning rate, momentum, weight decay and delta by hand."""
    plan = Plan(epochs=2, lr=0.05, batch_size=32, momentum=0.9, weight_decay=0.01)
    torch.manual_seed(0)
    start = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10))
    mine, slow = start.double(), copy.deepcopy(start.double())

    delta = torch.zeros(32, 1, 8, 8, dtype=torch.float64)
    velocity = [torch.zeros_like(p) for p in slow.parameters()]
    taken = 0
    slow.train()
    for epoch in range(2):
        for x, y in epoch_batches(split, batch_size=32, seed=derive(3, "train"), epoch=epoch):
            for _ in range(REPLAYS):
                noise = delta[: len(x)].clone().requires_grad_()
                slow.zero_grad()
                F.cross_entropy(slow((x.double() + noise).clamp(0, 1)), y).backward()
                delta[: len(x)] = (delta[: len(x)] + 0.1 * noise.grad.sign()).clamp(-0.1, 0.1)
                rate = learning_rate(plan, taken / (2 * STEPS))
                for parameter, v in zip(slow.parameters(), velocity, strict=True):
                    v.mul_(0.9).add_(parameter.grad + 0.01 * parameter.detach())
                    parameter.data.sub_(rate * v)
                taken += 1

    doubled = FreeAdversarialTraining(THREAT, replays=REPLAYS)

    class InDouble:
        replays = REPLAYS

        def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: Any = None) -> Any:
            return doubled(model, x.double(), y, generator)

    setting = Setting(seed=3, accelerator="cpu", precision="64-true")
    train(mine, split, InDouble(), plan=plan, setting=setting)
    for a, b in zip(mine.state_dict().values(), slow.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-10, rtol=0)
    assert doubled.delta is not None
    assert torch.allclose(doubled.delta, delta, atol=1e-12)


INTERRUPTIONS = [((0, 0), 0.0), ((1, 4), 0.0), ((1, 5), 0.0), ((1, 4), 300.0)]


@pytest.mark.parametrize(("stop", "save_every"), INTERRUPTIONS)
def test_it_resumes_bit_for_bit_between_any_two_replays(
    split: Split, tmp_path: Path, stop: tuple[int, int], save_every: float
) -> None:
    whole, expected, everything = run(split)
    with pytest.raises(Stop):
        run(split, tmp_path, recorder=Steps(stop=stop), save_every=save_every)
    net, outcome, recorder = run(split, tmp_path)
    assert min(recorder.losses) == (stop if save_every == 0.0 else (1, 0))
    assert {place: everything.losses[place] for place in recorder.losses} == recorder.losses
    assert same_state(net.state_dict(), whole.state_dict())
    assert outcome.images == expected.images
    assert without_clock(read_metrics(tmp_path / "metrics.jsonl")) == without_clock(everything.epochs)


def test_the_perturbation_is_part_of_what_is_resumed(split: Split, tmp_path: Path) -> None:
    """Without it the run would go on from delta = 0 and end elsewhere."""
    whole, _, _ = run(split)
    with pytest.raises(Stop):
        run(split, tmp_path, recorder=Steps(stop=(1, 4)), save_every=0.0)

    class Forgetful(FreeAdversarialTraining):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            assert state["delta"].shape == (32, 1, 8, 8)

    net, _, _ = run(split, tmp_path, objective=Forgetful(THREAT, replays=REPLAYS))
    assert not same_state(net.state_dict(), whole.state_dict())


@pytest.mark.parametrize("other", [Natural(), FreeAdversarialTraining(THREAT, replays=REPLAYS)])
def test_a_checkpoint_of_another_objective_is_refused(split: Split, tmp_path: Path, other: Any) -> None:
    first = FreeAdversarialTraining(THREAT) if isinstance(other, Natural) else Natural()
    with pytest.raises(Stop):
        run(split, tmp_path, recorder=Steps(stop=(0, 1)), save_every=0.0, objective=first)
    with pytest.raises(CheckpointError, match=r"pretrain-last\.pt: this checkpoint is of another run"):
        run(split, tmp_path, objective=other)


def test_one_replay_is_plain_training(split: Split) -> None:
    class Once(Natural):
        replays = 1

    (one, _, a), (other, _, b) = run(split, objective=Once()), run(split, objective=Natural())
    assert same_state(one.state_dict(), other.state_dict())
    assert a.losses == b.losses


def test_removed_weights_stay_zero_through_replays(split: Split) -> None:
    masks = phase_cases.magnitude_masks(phase_cases.model(), 0.7)
    net, outcome, _ = run(split, pruner=FixedMask(masks))
    for name, mask in masks.items():
        assert torch.equal(net.state_dict()[name] != 0, mask)
    assert same_state(outcome.masks, masks)
