"""MixTrain: when, for which images, with which weight the worst case counts; certified objectives in training."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from objective_table import batch, dice, gradients, network, same
from torch.nn import functional as F

from hedgerow.bounds import Network, ball, batch_statistics, crown_walk, interval_walk, linear_least
from hedgerow.data import Split
from hedgerow.objectives import IBP, CrownIBP, MixTrain, Natural
from hedgerow.pruners import PRUNERS
from hedgerow.sparsity import Budget, count_nonzero, total_count
from hedgerow.threat import ThreatModel
from hedgerow.tracing import trace
from hedgerow.training import Plan, Setting, train

THREAT = ThreatModel("linf", "1/50")


def test_without_a_chance_it_is_natural_training_bit_for_bit() -> None:
    model, other = network(), network()
    loss, scalars = MixTrain(THREAT, chance=0.0)(model, *batch(), dice())
    expected, _ = Natural()(other, *batch())
    assert torch.equal(loss, expected)
    assert same(gradients(model, loss), gradients(other, expected))
    assert scalars["robust"] == 0


def test_the_chance_is_that_of_the_worst_case_being_counted() -> None:
    objective = MixTrain(THREAT, chance=0.7)
    counted = [objective._draw(12, torch.device("cpu"), dice(seed)) for seed in range(400)]
    share = sum(chosen is not None for chosen in counted) / 400
    assert share == pytest.approx(0.7, abs=0.07)
    for chosen in counted:
        if chosen is not None:
            assert len(set(chosen.tolist())) == 5
            assert set(chosen.tolist()) <= set(range(12))
    assert len(MixTrain(THREAT, chance=1.0)._draw(3, torch.device("cpu"), dice())) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("bound", ["symbolic", "crown", "crown-ibp"])
def test_the_worst_case_is_that_of_the_drawn_images_under_the_clean_batch(bound: Any) -> None:
    model, slow = network().double(), network().double()
    x, y = batch()
    x = x.double()
    objective = MixTrain(THREAT, chance=1.0, images=4, bound=bound, weight=0.5, growth=1.0)
    loss, scalars = objective(model, x, y, dice(7))
    random = dice(7)
    torch.rand((), generator=random)
    chosen = torch.randperm(12, generator=random)[:4]
    graph = trace(slow, x)
    with batch_statistics(graph, slow) as seen:
        logits = slow(x)
    net = Network(graph, slow, statistics=seen)
    region = ball(x[chosen], THREAT)
    rows = torch.eye(3).double()[y[chosen]].unsqueeze(1) - torch.eye(3).double()
    slope: Any = "parallel" if bound == "symbolic" else "adaptive"
    walk = interval_walk(net, region) if bound == "crown-ibp" else crown_walk(net, region, slope=slope)
    worst = F.cross_entropy(-linear_least(walk, rows, slope=slope), y[chosen])
    expected = F.cross_entropy(logits, y) + 0.5 * worst
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert same(gradients(model, loss), gradients(slow, expected), atol=1e-12)
    assert scalars["robust"].item() == pytest.approx(0.5 * worst.item())
    assert model[1].num_batches_tracked == 1


def test_the_weight_grows_in_steps_after_the_ramp_up_to_its_cap() -> None:
    objective = MixTrain(THREAT)
    weights = {}
    for percent in range(0, 100, 5):
        objective.progress(percent / 100)
        weights[percent] = objective.weight
    assert [weights[p] for p in (0, 10, 15)] == pytest.approx([0.1] * 3)
    assert [weights[p] for p in (20, 25, 30)] == pytest.approx([0.25, 0.625, 1.5625])
    assert weights[95] == 50
    assert MixTrain(THREAT, weight=80).weight == 80, "a first weight above the cap stays"


def test_the_ramp_of_eps_is_linear_from_the_start() -> None:
    objective = MixTrain(THREAT, chance=1.0)
    for done, eps in ((0.0, 0.0), (0.075, 0.01), (0.15, 0.02), (0.9, 0.02)):
        objective.progress(done)
        assert objective(network(), *batch(), dice())[1]["eps"].item() == pytest.approx(eps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 0}, "images is 0; it counts the images"),
        ({"images": True}, "images is True"),
        ({"chance": 1.5}, "chance is 1.5"),
        ({"bound": "zonotope"}, "bound 'zonotope' is not known; allowed: symbolic, crown, crown-ibp"),
        ({"weight": -1.0}, "weight is -1.0; it is a weight and must be 0 or more"),
        ({"most": math.inf}, "most is inf"),
        ({"growth": 0.5}, "growth is 0.5"),
        ({"every": 0.0}, "every is 0.0"),
        ({"ramp": -1.0}, "ramp is -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixTrain(THREAT, **options)


def split() -> Split:
    return Split((255 * batch(48)[0]).to(torch.uint8), torch.arange(48) % 3)


def trained(objective: Any, name: str = "dense", **more: Any) -> Any:
    model = network()
    if name == "dense":
        out = train(model, split(), objective, plan=Plan(epochs=2, lr=0.05, batch_size=24), **more)
    else:
        offered = "granularity" in inspect.signature(PRUNERS[name]).parameters
        weight = offered and "weight" in PRUNERS[name].granularities
        pruner = PRUNERS[name](**({"granularity": "weight"} if weight else {}))
        plan = Plan(epochs=2, lr=0.05, batch_size=24)
        out = train(model, split(), objective, plan=plan, pruner=pruner, budget=Budget(0.5), **more)
    return model, out


@pytest.mark.parametrize("name", [n for n in PRUNERS if PRUNERS[n].images == 1])  # the network has no ReLU
def test_every_pruner_trains_with_bounds_and_meets_its_budget(name: str) -> None:
    objective = CrownIBP(THREAT, warmup=0.0, ramp=0.5, beta=0.5)
    model, out = trained(objective, name, setting=Setting(accelerator="cpu"))
    assert out.epochs == (2 if PRUNERS[name].learns else 0)
    assert total_count(count_nonzero(model)).sparsity > 0.3
    assert all(value.isfinite().all() for value in model.state_dict().values())


class Seen:
    """A listener that ends training after some steps, and an objective's progress kept."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.count = stop, 0

    def start(self, *_: object) -> None:
        pass

    def epoch(self, *_: object) -> None:
        pass

    def step(self, *_: object) -> None:
        self.count += 1
        if self.count == self.stop:
            raise InterruptedError


@pytest.mark.parametrize("kind", [IBP, CrownIBP, MixTrain])
def test_the_loop_tells_the_place_and_a_resumed_run_ends_the_same(kind: Any, tmp_path: Path) -> None:
    told: list[float] = []

    class Told(kind):  # type: ignore[misc]
        def progress(self, done: float) -> None:
            told.append(done)
            super().progress(done)

    def setting(folder: Path, **more: Any) -> Setting:
        return Setting(accelerator="cpu", folder=folder, save_every=0.0, **more)

    whole, _ = trained(Told(THREAT), setting=setting(tmp_path / "whole"))
    assert told == pytest.approx([0.0, 0.25, 0.5, 0.75])
    with pytest.raises(InterruptedError):
        trained(Told(THREAT), setting=setting(tmp_path / "cut", listeners=(Seen(stop=3),)))
    told.clear()
    resumed, _ = trained(Told(THREAT), setting=setting(tmp_path / "cut"))
    assert told[0] > 0
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
