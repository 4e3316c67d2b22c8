"""Schedules at their known points; which epoch is kept; what training leaves alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import phase_cases
import pytest
import torch
from phase_cases import Recorder, Stop, same_state
from torch import Tensor, nn

from hedgerow.data import Split
from hedgerow.objectives import Natural
from hedgerow.pruners import Hydra
from hedgerow.sparsity import Budget
from hedgerow.training import Plan, Setting, build_optimizer, learning_rate, train


@pytest.mark.parametrize(
    ("schedule", "points"),
    [
        ("cosine", {0: 0.4, 1 / 3: 0.3, 1 / 2: 0.2, 2 / 3: 0.1, 1: 0.0}),
        ("constant", {0: 0.4, 0.5: 0.4, 1: 0.4}),
        ("step", {0: 0.4, 0.49: 0.4, 0.5: 0.04, 0.74: 0.04, 0.75: 0.004, 1: 0.004}),
        ("triangle", {0: 0.4, 0.25: 0.3, 0.5: 0.2, 1: 0.0}),
    ],
)
@pytest.mark.parametrize("warmup", [0.0, 0.2])
def test_schedules_at_known_points(schedule: Any, points: dict[float, float], warmup: float) -> None:
    plan = Plan(epochs=10, lr=0.4, schedule=schedule, warmup=warmup)
    for share, expected in points.items():
        done = warmup + share * (1 - warmup)  # the shape takes the time that warming up leaves
        assert learning_rate(plan, done) == pytest.approx(expected, abs=1e-12)


def test_warming_up_rises_linearly_from_almost_nothing() -> None:
    plan = Plan(epochs=10, lr=0.4, schedule="constant", warmup=0.5)
    rates = [learning_rate(plan, i / 100) for i in range(50)]
    assert 0 < rates[0] < 0.004
    assert rates[1:] == pytest.approx([0.4 * i / 50 for i in range(1, 50)])
    assert max(learning_rate(plan, i / 1000) for i in range(1000)) == 0.4


def test_the_loop_sets_the_schedule_before_every_step(split: Split) -> None:
    rates: list[float] = []

    class Watching(phase_cases.Dense):
        def after_step(self, progress: object) -> None:
            rates.append(optimizers[0].param_groups[0]["lr"])

    optimizers: list[torch.optim.Optimizer] = []
    original = torch.optim.SGD.__init__

    def spying(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        optimizers.append(self)

    plan = phase_cases.plan(epochs=2, schedule="triangle", lr=0.8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "__init__", spying)
        train(phase_cases.model(), split, Natural(), plan=plan, pruner=Watching(), setting=Setting())
    assert rates == pytest.approx([0.8 * (1 - i / 8) for i in range(8)])


@pytest.mark.parametrize(("name", "kind"), [("sgd", "SGD"), ("adam", "Adam"), ("adamw", "AdamW")])
def test_optimisers_take_the_plans_options_and_a_groups_own_win(name: Any, kind: str) -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))]}, {"params": [nn.Parameter(torch.zeros(1))]}]
    groups[1]["weight_decay"] = 0.0  # type: ignore[assignment]
    optimizer = build_optimizer(groups, Plan(epochs=1, lr=0.3, optimizer=name, momentum=0.8, weight_decay=0.02))
    assert type(optimizer).__name__ == kind
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.02, 0.0]
    assert all(g["lr"] == 0.3 for g in optimizer.param_groups)
    assert all(g.get("momentum", g.get("betas", (0,))[0]) == 0.8 for g in optimizer.param_groups)


def scripted(scores: list[float], seen: list[dict[str, Tensor]]) -> Callable[[nn.Module], dict[str, float]]:
    def validate(model: nn.Module) -> dict[str, float]:
        seen.append({n: t.detach().clone() for n, t in model.state_dict().items()})
        return {"clean": 1.0, "robust": scores[len(seen) - 1]}

    return validate


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize(
    ("select", "scores", "epoch"),
    [("best", [0.2, 0.5, 0.5, 0.1], 2), ("best", [0.0, 0.0, 0.0, 0.0], 1), ("last", [0.2, 0.5, 0.5, 0.1], 4)],
)
def test_which_epoch_is_kept(
    split: Split, tmp_path: Path, select: Any, scores: list[float], epoch: int, on_disk: bool
) -> None:
    seen: list[dict[str, Tensor]] = []
    net = phase_cases.model()
    folder = tmp_path if on_disk else None
    setting = Setting(folder=folder, validate=scripted(scores, seen))
    outcome = train(net, split, Natural(), plan=phase_cases.plan(epochs=4, select=select), setting=setting)
    assert same_state(net.state_dict(), seen[epoch - 1])
    assert not any(same_state(net.state_dict(), s) for i, s in enumerate(seen) if i != epoch - 1)
    assert outcome.selected_epoch == epoch


def test_the_best_epoch_before_an_interruption_is_still_the_best(split: Split, tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []
    plan = phase_cases.plan(epochs=4)
    validate = scripted([0.2, 0.6, 0.3, 0.5], seen)
    first = Setting(folder=tmp_path, validate=validate, listeners=(Recorder(stop=(3, 1)),))
    with pytest.raises(Stop):
        train(phase_cases.model(), split, Natural(), plan=plan, setting=first)
    net = phase_cases.model()
    outcome = train(net, split, Natural(), plan=plan, setting=Setting(folder=tmp_path, validate=validate))
    assert len(seen) == 4
    assert outcome.selected_epoch == 2
    assert same_state(net.state_dict(), seen[1])


def test_the_masks_of_a_learned_method_are_those_of_the_epoch_that_is_kept(split: Split) -> None:
    masks: list[dict[str, Tensor]] = []
    pruner = Hydra()

    def validate(model: nn.Module) -> dict[str, float]:
        masks.append({name: scored.mask() for name, scored in pruner.scored.items()})
        return {"clean": 1.0, "robust": [0.9, 0.2, 0.3][len(masks) - 1]}

    plan = phase_cases.plan(lr=0.5, select="best")
    setting = Setting(validate=validate)
    out = train(
        phase_cases.model(), split, Natural(), plan=plan, pruner=pruner, budget=Budget(0.7), setting=setting
    )
    assert same_state(out.masks, masks[0])
    assert not same_state(out.masks, masks[2])


def test_without_validation_the_last_epoch_is_kept_and_said_so(split: Split) -> None:
    outcome = train(phase_cases.model(), split, Natural(), plan=phase_cases.plan(epochs=2, select="best"))
    assert outcome.selected_epoch == 2


def test_no_epochs_change_nothing(split: Split) -> None:
    net = phase_cases.model()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    outcome = train(net, split, Natural(), plan=phase_cases.plan(epochs=0))
    assert same_state(net.state_dict(), before)
    assert (outcome.epochs, outcome.images) == (0, 0)


@pytest.mark.parametrize("fails", [False, True])
def test_the_global_generators_are_as_before(split: Split, fails: bool) -> None:
    net = phase_cases.model()
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002 - the state that must not be touched
    random.seed(11)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    setting = Setting(listeners=(Recorder(stop=(1, 1) if fails else None),))
    try:
        train(net, split, Natural(), plan=phase_cases.plan(), setting=setting)
        assert not fails
    except Stop:
        assert fails
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_the_global_generators_and_the_clock_have_no_say(split: Split) -> None:
    states = []
    for seed in (1, 2):
        net = phase_cases.model()
        torch.manual_seed(seed)
        train(net, split, Natural(), plan=phase_cases.plan(), setting=Setting(seed=5))
        states.append(net.state_dict())
    assert same_state(*states)


def test_another_seed_is_another_run(split: Split) -> None:
    states = []
    for seed in (1, 2):
        net = phase_cases.model()
        train(net, split, Natural(), plan=phase_cases.plan(augment=()), setting=Setting(seed=seed))
        states.append(net.state_dict())
    assert not same_state(*states)
