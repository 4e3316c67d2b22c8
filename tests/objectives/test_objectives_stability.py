"""The stability loss as a term of IBP and CROWN-IBP: what it adds, when, and that nothing is paid without it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from objective_table import batch, gradients
from torch import Tensor, nn

from hedgerow.bounds import Network, ball, batch_statistics, interval_walk, stability_loss
from hedgerow.errors import ModelError, RecipeError
from hedgerow.objectives import IBP, CrownIBP, certified, tell_progress
from hedgerow.recipe import parse_recipe
from hedgerow.threat import ThreatModel
from hedgerow.tracing import trace

THREAT = ThreatModel("linf", "1/50")
both = pytest.mark.parametrize("kind", [IBP, CrownIBP], ids=["ibp", "crown-ibp"])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)
    ).train()


def term(model: nn.Module, x: Tensor, threat: ThreatModel = THREAT) -> Tensor:
    """The loss of the batch's own intervals, by the statistics of the clean batch."""
    graph = trace(model, x[:2])
    with batch_statistics(graph, model) as statistics:
        model(x)
    return stability_loss(interval_walk(Network(graph, model, statistics=statistics), ball(x, threat)))


@both
@pytest.mark.parametrize("kappa", [0.0, 0.5])
def test_its_weight_times_the_loss_of_the_intervals_is_added(kind: Any, kappa: float) -> None:
    x, y = batch()
    model, plain, alone = network(), network(), network()
    loss, scalars = kind(THREAT, kappa=kappa, stability=0.3)(model, x, y)
    without, fewer = kind(THREAT, kappa=kappa)(plain, x, y)
    expected = 0.3 * term(alone, x)
    assert loss.item() == pytest.approx((without + expected).item(), rel=1e-6)
    assert scalars["stability"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert not scalars["stability"].requires_grad
    assert set(scalars) == {*fewer, "stability"}
    # The last layer has no part in the intervals of ReLUs.
    added = [*torch.autograd.grad(expected, list(alone.parameters())[:-2]), torch.zeros(3, 36), torch.zeros(3)]
    for both_terms, first, second in zip(gradients(model, loss), gradients(plain, without), added, strict=True):
        torch.testing.assert_close(both_terms, first + second, atol=1e-6, rtol=1e-5)
    assert added[0].abs().max() > 1e-4
    assert added[2].abs().max() < 1e-6, "gamma gets nothing from it"


@both
def test_without_a_weight_nothing_is_computed(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(certified, "stability_loss", lambda walk: calls.append(walk) or torch.zeros(()))
    kind(THREAT)(network(), *batch())
    assert calls == []
    kind(THREAT, stability=0.1)(network(), *batch())
    assert len(calls) == 1


@both
def test_it_begins_with_the_attacker(kind: Any) -> None:
    objective = kind(THREAT, warmup=0.5, ramp=0.5, stability=0.3)
    tell_progress(objective, 0.2)
    loss, scalars = objective(network(), *batch())
    assert scalars["stability"] == 0
    assert torch.equal(loss, scalars["natural"])
    tell_progress(objective, 0.8)
    _, later = objective(network(), *batch())
    assert set(later) == set(scalars)
    assert later["stability"] != 0


def test_training_by_it_settles_relus() -> None:
    x, threat = batch()[0], ThreatModel("linf", "1/5")
    found = []
    for weight in (0.0, 3.0):
        model = network()
        objective, optimizer = IBP(threat, stability=weight), torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(10):
            optimizer.zero_grad()
            objective(model, *batch())[0].backward()
            optimizer.step()
        found.append(term(model, x, threat).item())
    assert found[1] < found[0] - 0.1


@both
def test_it_is_float32_under_autocast_and_the_same_without_gradients(kind: Any) -> None:
    objective = kind(THREAT, stability=0.3)
    full, _ = objective(network(), *batch())
    with torch.no_grad():
        assert torch.equal(objective(network(), *batch())[0], full)
    with torch.autocast("cpu", torch.bfloat16):
        loss, scalars = objective(network(), *batch())
    assert loss.dtype == scalars["stability"].dtype == torch.float32
    assert loss.item() == pytest.approx(full.item(), rel=0.1)


@both
def test_a_network_without_relus_cannot_be_trained_for_it(kind: Any) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3))
    with pytest.raises(ModelError, match="no ReLU whose stability could be trained for; set stability 0"):
        kind(THREAT, stability=0.1)(net, *batch())


@both
@pytest.mark.parametrize("weight", [-0.1, math.inf, math.nan])
def test_it_is_a_weight(kind: Any, weight: float) -> None:
    with pytest.raises(ValueError, match=f"stability is {weight}; it is a weight and must be 0 or more"):
        kind(THREAT, stability=weight)


@pytest.mark.parametrize("name", ["ibp", "crown-ibp"])
def test_recipes_may_ask_for_it(name: str) -> None:
    raw = {"name": "x", "objective": {"name": name, "stability": "1e-2"}}
    assert parse_recipe(raw).objective.name == name
    with pytest.raises(RecipeError, match=r"objective \(stability: -1\): stability is -1"):
        parse_recipe({"name": "x", "objective": {"name": name, "stability": -1}})
    with pytest.raises(RecipeError, match=r"objective.stability: unknown key"):
        parse_recipe({"name": "x", "objective": {"name": "pgd-at", "stability": 0.01}})
