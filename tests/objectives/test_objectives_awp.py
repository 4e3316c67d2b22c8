"""Adversarial weight perturbation against an explicit two-pass computation on a copy of the network."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from objective_table import CASES, batch, buffers, dice, gradients, make, network, same, takes
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from hedgerow.errors import ModelError
from hedgerow.objectives import OBJECTIVES
from hedgerow.objectives.awp import at_worst_weights, weight_perturbation
from hedgerow.pruners import Hydra
from hedgerow.pruners.rewiring import MovingMask
from hedgerow.sparsity import Budget, attach, attach_masks, prunable_weights, shared_weights

GAMMA = 0.05
WITH_AWP = [name for name in OBJECTIVES if takes(name, "awp")]
with_awp = pytest.mark.parametrize("name", WITH_AWP)


def some_masks(model: nn.Module, seed: int = 7) -> dict[str, Tensor]:
    die = dice(seed)
    return {n: torch.rand(w.dense.shape, generator=die) < 0.4 for n, w in prunable_weights(model).items()}


def in_double(name: str, **options: Any) -> tuple[Any, Tensor, Tensor]:
    x, y = batch()
    return make(name, **options), x.double(), y


def explicit(
    name: str, model: nn.Module, x: Tensor, y: Tensor, masks: dict[str, Tensor] | None
) -> tuple[Tensor, nn.Module]:
    """Two passes on a plain copy: gradients at w, weights moved by hand, loss at w + v; returns the copy there."""
    probe = copy.deepcopy(model)
    make(name)(probe, x, y, dice(4))[0].backward()
    with torch.no_grad():
        for weight_name, weight in prunable_weights(probe).items():
            g = weight.dense.grad if masks is None else weight.dense.grad * masks[weight_name]
            square = sum(v**2 for v in g.flatten().tolist())
            size = sum(v**2 for v in weight.dense.flatten().tolist())
            weight.dense.add_(GAMMA * math.sqrt(size / square) * g)
    moved = copy.deepcopy(model)
    for (_, weight), (_, target) in zip(
        prunable_weights(probe).items(), prunable_weights(moved).items(), strict=True
    ):
        target.dense.data.copy_(weight.dense.data)
    given = make(name)
    images = given.craft(model, *((x,) if name == "trades" else (x, y)), dice(4))
    for part in (given, getattr(given, "attack", given)):
        part.craft = lambda *_: images
    return given(moved, x, y)[0], moved


@with_awp
@pytest.mark.parametrize("masked", [False, True])
def test_it_equals_the_two_passes_done_by_hand(name: str, masked: bool) -> None:
    model = network().double()
    masks = some_masks(model) if masked else None
    if masks:
        for weight_name, weight in prunable_weights(model).items():
            weight.dense.data[~masks[weight_name]] = 0
    objective, x, y = in_double(name, awp=GAMMA)
    expected, moved = explicit(name, model, x, y, masks)
    slow = {n: g for (n, _), g in zip(moved.named_parameters(), gradients(moved, expected), strict=True)}
    if masks:
        attach_masks(model, masks)
    with shared_weights(model):
        loss, scalars = objective(model, x, y, dice(4))
        loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9, rel=0)
    plain_loss, _ = make(name)(copy.deepcopy(model), x, y, dice(4))
    assert loss > plain_loss, "the weights were moved to where the loss is larger"
    for parameter_name, parameter in model.named_parameters():
        layer, _, kind = parameter_name.partition(".parametrizations")
        wanted = slow[f"{layer}.weight" if kind else parameter_name]
        if masks and f"{layer}.weight" in masks and kind:
            wanted = wanted * masks[f"{layer}.weight"]
        assert torch.allclose(parameter.grad, wanted, atol=1e-9), parameter_name
    assert all(not value.requires_grad for value in scalars.values())


@with_awp
def test_running_statistics_are_those_of_the_training_forwards_at_the_moved_weights(name: str) -> None:
    model = network().double()
    objective, x, y = in_double(name, awp=GAMMA)
    _, moved = explicit(name, model, x, y, None)
    objective(model, x, y, dice(4))
    assert torch.allclose(model[1].running_mean, moved[1].running_mean, atol=1e-10)
    assert torch.equal(model[1].num_batches_tracked, moved[1].num_batches_tracked)


@with_awp
def test_a_perturbation_of_size_zero_is_none_bit_for_bit(name: str) -> None:
    results = []
    for options in ({}, {"awp": 0.0}):
        model = nn.Sequential(network(), nn.Dropout(0.5)).train()
        torch.manual_seed(3)
        loss, scalars = make(name, **options)(model, *batch(), dice())
        states = [loss, *gradients(model, loss), *scalars.values(), torch.get_rng_state()]
        results.append((states, buffers(model)))
    (one, buffers_one), (other, buffers_other) = results
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert buffers_one == buffers_other


@pytest.mark.parametrize("name", [case for case in CASES if case.endswith("+awp")])
def test_the_weights_and_their_gradients_are_not_touched(name: str) -> None:
    model = network()
    before = [parameter.clone() for parameter in model.parameters()]
    names = [n for n, _ in model.named_parameters()]
    make(name)(model, *batch(), dice())
    assert same(list(model.parameters()), before)
    assert [n for n, _ in model.named_parameters()] == names
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_the_step_has_the_size_asked_for_in_every_layer_and_the_gradients_direction() -> None:
    die = dice()
    weight, gradient = torch.randn(2, 6, 4, 3, 3, generator=die)
    v = weight_perturbation(weight, gradient, 0.01)
    assert v.norm() == pytest.approx(0.01 * weight.norm().item(), rel=1e-5)
    assert torch.allclose(v / v.norm(), gradient / gradient.norm())
    weight[:3] = 0
    v = weight_perturbation(weight, gradient, 0.01)
    assert not v[:3].any()
    assert v.norm() == pytest.approx(0.01 * weight.norm().item(), rel=1e-5)
    assert torch.allclose(v[3:] / v.norm(), gradient[3:] / gradient[3:].norm())


@pytest.mark.parametrize(("weight", "gradient"), [(1.0, 0.0), (0.0, 1.0), (1e-30, 1e-30), (0.0, 0.0)])
def test_a_layer_without_weight_or_gradient_stays(weight: float, gradient: float) -> None:
    v = weight_perturbation(torch.full((2, 3), weight), torch.full((2, 3), gradient), 0.01)
    assert torch.equal(v, torch.zeros(2, 3))


class Watching(nn.Module):
    """Keeps the weights a network is used with in every training forward."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.used = inner, []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            weights = prunable_weights(self.inner)
            self.used.append({n: w.module.weight.detach() for n, w in weights.items()})
        return self.inner(x)


@with_awp
def test_removed_weights_are_exactly_zero_at_the_worst_weights_too(name: str) -> None:
    model = Watching(network()).train()
    masks = some_masks(model)
    attach_masks(model, masks)
    with shared_weights(model):
        make(name, awp=GAMMA)(model, *batch(), dice())
    first, last = model.used[0], model.used[-1]
    for weight_name, mask in masks.items():
        inside = weight_name.removeprefix("inner.")
        assert not torch.equal(first[inside], last[inside])
        assert bytes(last[inside][~mask].numpy().tobytes()) == bytes(4 * int((~mask).sum()))
        moved = (last[inside] - first[inside]).norm() / first[inside].norm()
        assert moved == pytest.approx(GAMMA, rel=1e-4)


def test_scores_learn_from_the_gradient_at_the_worst_weights_and_the_weights_stand_still() -> None:
    model = network().double()
    hydra = Hydra()
    hydra.attach(model, Budget(0.5))
    masks = {n: scored.mask() for n, scored in hydra.scored.items()}
    dense = {n: w.dense.detach().clone() for n, w in hydra.weights.items()}
    pruned = network().double()
    for n, weight in prunable_weights(pruned).items():
        weight.dense.data[~masks[n]] = 0
    objective, x, y = in_double("pgd-at", awp=GAMMA)
    expected, moved = explicit("pgd-at", pruned, x, y, masks)
    expected.backward()
    with shared_weights(model):
        loss, _ = objective(model, x, y, dice(4))
        loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9, rel=0)
    for n, weight in prunable_weights(moved).items():
        wanted = hydra.scored[n].scores.sign() * dense[n] * weight.dense.grad
        assert torch.allclose(hydra.scored[n].scores.grad, wanted, atol=1e-9)
        assert torch.equal(hydra.weights[n].dense, dense[n])
        assert hydra.weights[n].dense.grad is None


def test_who_listens_to_gradients_hears_the_training_backward_alone() -> None:
    model = network().double()
    masks = some_masks(model)
    for n, weight in prunable_weights(model).items():
        weight.dense.data[~masks[n]] = 0
    objective, x, y = in_double("pgd-at", awp=GAMMA)
    expected, moved = explicit("pgd-at", model, x, y, masks)
    expected.backward()
    listening = {n: MovingMask(mask) for n, mask in masks.items()}
    for n, weight in prunable_weights(model).items():
        attach(weight, listening[n])
    with shared_weights(model):
        objective(model, x, y, dice(4))[0].backward()
    for n, weight in prunable_weights(moved).items():
        assert listening[n].gradient is not None
        assert torch.allclose(listening[n].gradient, weight.dense.grad, atol=1e-9)


def test_it_works_without_shared_weights_too() -> None:
    results = []
    for shared in (True, False):
        model = network()
        attach_masks(model, some_masks(model))
        with shared_weights(model if shared else nn.Identity()):
            loss, _ = make("trades", awp=GAMMA)(model, *batch(), dice())
            loss.backward()
        results.append([loss, *(p.grad for p in model.parameters())])
    assert same(*results)


def test_a_layer_that_is_not_used_is_no_obstacle() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = network(), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Spare()
    assert at_worst_weights(model, lambda net: (F.cross_entropy(net(batch()[0]), batch()[1]), {}), 0.1)[0] > 0


def test_a_foreign_parametrization_is_named() -> None:
    model = network()
    spectral_norm(model[4])
    with pytest.raises(ModelError, match=r"4\.weight is parametrized by _SpectralNorm, .* remove that"):
        make("pgd-at", awp=0.01)(model, *batch(), dice())
    assert model(batch()[0]).shape == (12, 3)


@with_awp
@pytest.mark.parametrize("size", [-0.01, math.inf, math.nan])
def test_a_size_that_is_none_is_refused(name: str, size: float) -> None:
    with pytest.raises(ValueError, match=r"awp is .*; it is the size of the weight perturbation"):
        make(name, awp=size)
