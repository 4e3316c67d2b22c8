"""Crafting in the sparse runtime: the attacks of the masked network, for less, and only where it can be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hedgerow.attacks import crafting, pgd, sparse_crafting, standin
from hedgerow.objectives import OBJECTIVES
from hedgerow.pruners import PRUNERS
from hedgerow.runtime import SparseModel
from hedgerow.sparsity import Budget, shared_weights
from hedgerow.threat import ThreatModel

THREAT = ThreatModel("linf", 0.1)
MANY = 10**12


class Net(nn.Sequential):
    def __init__(self, last: nn.Module | None = None) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, stride=2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            last or nn.Linear(16 * 16, 4),
        )


def attached(sparsity=0.9, method="hydra", model=None):
    torch.manual_seed(0)
    model = model or Net()
    pruner = PRUNERS[method]()
    pruner.attach(model, Budget(sparsity), example=torch.rand(2, 3, 8, 8))
    return model, pruner


@pytest.fixture
def images():
    return torch.rand(11, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["pgd-at", "trades", "mart"])
def test_an_objective_crafts_what_it_does_on_the_masked_network(images, name):
    labels, objective = torch.arange(11) % 4, OBJECTIVES[name](THREAT, steps=5)
    losses = []
    for inside in (False, True):
        model, _ = attached()  # anew: a training forward moves the running statistics
        with sparse_crafting(model, images, to_come=MANY if inside else 0) as possible, shared_weights(model):
            assert possible == inside
            loss, _ = objective(model, images, labels, torch.Generator().manual_seed(2))
            loss.backward()
        losses.append(loss.item())
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_every_crafting_sees_the_weights_and_statistics_of_the_moment(images):
    model, _ = attached()
    with sparse_crafting(model, images, to_come=MANY):
        for _ in range(2):
            with crafting(model) as inner, torch.no_grad():
                assert isinstance(inner, SparseModel)
                found = inner(images)
            with torch.no_grad():
                model.train()
                model(images + torch.rand(()))  # other running statistics
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
                model.eval()
                expected = model(images)
            assert not torch.allclose(found, expected, rtol=1e-3)
            with crafting(model) as inner, torch.no_grad():
                assert torch.allclose(inner(images), expected, rtol=1e-4, atol=1e-5)
    with crafting(model) as inner:
        assert inner is model


def test_modes_and_gradients_are_as_before(images):
    model, _ = attached()
    model.train()
    model[1].eval()
    with sparse_crafting(model, images, to_come=MANY):
        assert [m.training for m in list(model)[:3]] == [True, False, True]
        pgd(model, images, torch.zeros(11, dtype=torch.int64), threat=THREAT, steps=2, restarts=1)
        assert [m.training for m in list(model)[:3]] == [True, False, True]
        assert all(p.grad is None for p in model.parameters())
        with crafting(model, "train") as inner:  # statistics of the batch: the runtime has none
            assert inner is model


def test_a_network_with_many_weights_left_is_attacked_itself(images):
    model, _ = attached(0.5)
    with sparse_crafting(model, images, to_come=MANY) as possible, crafting(model) as inner:
        assert possible
        assert inner is model


class Softened(nn.Module):
    def forward(self, x):
        return nn.functional.softmax(x[:, :4], dim=1)


class Noisy(nn.Linear):
    stochastic = True


@pytest.mark.parametrize(
    "why", ["too little to do", "unknown operation", "no derivative", "stochastic", "type", "no Numba"]
)
def test_where_it_cannot_be_it_is_the_network_itself(images, why, monkeypatch):
    to_come, example, last = MANY, images, None
    if why == "too little to do":
        to_come = 1000
    if why == "unknown operation":
        last = Softened()
    if why == "stochastic":
        last = Noisy(256, 4)
    if why == "no Numba":
        monkeypatch.setattr(standin, "find_spec", lambda name: None)
    model = Net(last)
    if why == "no derivative":
        model[3].padding = (3, 3)
        model[7] = nn.LazyLinear(4)
    if why == "type":
        model.double()
        example = images.double()
    with torch.no_grad():
        model(example)
    with sparse_crafting(model, example, to_come=to_come) as possible, crafting(model) as inner:
        assert not possible
        assert inner is model
