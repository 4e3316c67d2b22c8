"""DNR against slow loops written from the paper, its limits, and what it keeps at every step."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from rewiring_cases import (
    Watched,
    batches,
    dense_weights,
    run,
    sgd,
    slow_cosine,
    slow_drop,
    slow_grow,
    slow_growth,
    slow_removal,
    slow_sparse_momentum,
    small_model,
    twin_of,
)
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.errors import ModelError
from hedgerow.pruners import Dense, FixedMask, Progress
from hedgerow.pruners.dnr import DNR
from hedgerow.sparsity import Budget, prunable_weights, shared_weights


@pytest.mark.parametrize("distribution", ["uniform", "erk"])
@pytest.mark.parametrize("sparsity", [0.02, 0.15, 0.5, 0.9])
def test_every_rewiring_against_the_slow_method(sparsity: float, distribution: str) -> None:
    model, pruner, epochs = small_model(), Watched(rho=0.3), 6
    budget = Budget(sparsity, distribution)
    keep = budget.keep(dense_weights(model))
    pruner.attach(model, budget)
    assert pruner.live() == keep
    run(model, pruner, epochs)
    assert [(s["progress"].epoch, s["progress"].step) for s in pruner.seen] == [(e, 0) for e in range(1, epochs)]
    for seen in pruner.seen:
        check_rewiring(seen["before"], seen["after"], slow_cosine(0.5, 0.005, seen["progress"].epoch, epochs))
        assert sum(int(layer["mask"].sum()) for layer in seen["after"].values()) == sum(keep.values())
    assert any(not torch.equal(s["before"][n]["mask"], s["after"][n]["mask"]) for s in pruner.seen for n in keep)
    masks = pruner.finish()
    assert sum(int(mask.sum()) for mask in masks.values()) == sum(keep.values())
    assert all(torch.equal(w != 0, masks[n]) for n, w in dense_weights(model).items())


def check_rewiring(before: dict[str, dict[str, Tensor]], after: dict[str, dict[str, Tensor]], p: float) -> None:
    live = {n: int(layer["mask"].sum()) for n, layer in before.items()}
    sizes = {n: layer["mask"].numel() for n, layer in before.items()}
    means = {}
    for name, layer in before.items():
        pairs = zip(layer["v"].flatten().tolist(), layer["mask"].flatten().tolist(), strict=True)
        means[name] = sum(abs(v) for v, alive in pairs if alive) / live[name]
    mu = {name: mean / sum(means.values()) for name, mean in means.items()}
    removed = slow_removal(live, sizes, mu, p)
    free = {n: sizes[n] - live[n] + removed[n] for n in live}
    grown = slow_growth(sum(removed.values()), free, mu)
    for name, layer in before.items():
        survivors = slow_drop(layer["theta"], layer["mask"], removed[name])
        mask = slow_grow(layer["v"], survivors, grown[name])
        assert torch.equal(after[name]["mask"], mask)
        assert torch.equal(after[name]["theta"], layer["theta"] * survivors)  # regrown weights start at 0
        assert torch.equal(after[name]["v"], layer["v"])
        z = mask * (layer["theta"] + layer["u"])
        torch.testing.assert_close(after[name]["z"], z)
        torch.testing.assert_close(after[name]["u"], layer["u"] + layer["theta"] - z)


def test_v_is_the_momentum_of_the_loss_gradient_at_every_place() -> None:
    """Twins with plain, masked weights give the dense gradient; neither decay nor the regulariser may enter."""
    model, pruner = small_model(), DNR(rho=5.0)
    pruner.attach(model, Budget(0.8))
    v = {name: torch.zeros_like(w) for name, w in dense_weights(model).items()}
    states: list[nn.Module] = [twin_of(model)]

    def watch(progress: Progress) -> None:
        x, y = batches(progress.epoch)[progress.step]
        F.cross_entropy(states[-1](x), y).backward()
        for name, weight in prunable_weights(states[-1]).items():
            v[name] = 0.9 * v[name] + weight.dense.grad
            torch.testing.assert_close(pruner.moving[name].get_buffer("v"), v[name])
        states.append(twin_of(model))

    run(model, pruner, 2, watch=watch)
    assert all((v[n][~pruner.moving[n].mask] != 0).all() for n in v)  # removed places are heard too


def test_the_regulariser_is_its_equation_and_pulls_on_the_stored_weights() -> None:
    model, pruner = small_model(), DNR(rho=0.7)
    pruner.attach(model, Budget(0.5))
    assert pruner.penalty() == 0  # Z starts as the masked weights
    total = 0.0
    expected = {}
    for name, moving in pruner.moving.items():
        moving.get_buffer("z").normal_()
        moving.get_buffer("u").normal_()
        gap = dense_weights(model)[name] - moving.get_buffer("z") + moving.get_buffer("u")
        total += 0.35 * float(gap.square().sum())
        expected[name] = 0.7 * gap * moving.mask
    penalty = pruner.penalty()
    assert penalty is not None
    assert penalty.item() == pytest.approx(total)
    penalty.backward()
    assert all(moving.gradient is None for moving in pruner.moving.values())
    pruner.after_backward()
    for name, weight in pruner.weights.items():
        torch.testing.assert_close(weight.dense.grad, expected[name])
        assert (pruner.moving[name].get_buffer("v") == 0).all()


def test_without_rho_it_is_sparse_momentum_bit_for_bit() -> None:
    """Sparse momentum written out on a plain network: multiply by masks, keep own buffers, rewire by hand."""
    epochs = 4
    model, pruner = small_model(), DNR(rho=0.0)
    pruner.attach(model, Budget(0.7))
    plain = twin_of(model)
    weights = {name: weight.dense for name, weight in prunable_weights(plain).items()}
    masks = {name: moving.mask.clone() for name, moving in pruner.moving.items()}
    v = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    with torch.no_grad():
        for name, weight in weights.items():
            weight.mul_(masks[name])
    assert pruner.penalty() is None
    run(model, pruner, epochs)
    # stored in the order of the masked model, so that the optimiser goes through them alike
    optimizer = sgd([{"params": list(plain.parameters())}])
    for epoch in range(epochs):
        for step, (x, y) in enumerate(batches(epoch)):
            optimizer.zero_grad()
            F.cross_entropy(plain(x), y).backward()
            for name, weight in weights.items():
                v[name] = v[name] * 0.9 + weight.grad
                weight.grad[~masks[name]] = 0.0
            optimizer.step()
            with torch.no_grad():
                for name, weight in weights.items():
                    weight[~masks[name]] = 0.0
                if epoch > 0 and step == 0:
                    masks = slow_sparse_momentum(weights, v, masks, slow_cosine(0.5, 0.005, epoch, epochs))
    assert all(torch.equal(mask, masks[name]) for name, mask in pruner.finish().items())
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_removed_weights_are_zero_after_every_step(optimizer: str) -> None:
    model, pruner = small_model(), DNR(rho=2.0)
    pruner.attach(model, Budget(0.8))
    counts = set()

    def watch(progress: Progress) -> None:
        counts.add(sum(pruner.live().values()))
        for name, weight in pruner.weights.items():
            removed = weight.dense.detach()[~pruner.moving[name].mask]
            assert (removed == 0).all()
            assert not removed.signbit().any()

    make = {"sgd": sgd, "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1)}
    run(model, pruner, 5, make=make[optimizer], watch=watch)
    assert counts == {sum(Budget(0.8).keep(dense_weights(model)).values())}


def test_with_nothing_to_remove_it_is_dense_training_bit_for_bit() -> None:
    model, dense = small_model(), small_model()
    pruner, nothing = DNR(rho=0.0), Dense()
    pruner.attach(model, Budget(0))
    nothing.attach(dense, Budget(0))
    run(model, pruner, 3)
    run(dense, nothing, 3)  # type: ignore[arg-type]
    assert all(mask.all() for mask in pruner.finish().values())
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), dense.state_dict().values(), strict=True)
    )


def test_with_nothing_to_move_it_is_training_under_its_first_masks() -> None:
    model, fixed = small_model(), small_model()
    pruner = DNR(rho=0.0, removal=0.0, removal_end=0.0, seed=5)
    pruner.attach(model, Budget(0.6))
    still = FixedMask({name: moving.mask.clone() for name, moving in pruner.moving.items()})
    still.attach(fixed)
    run(model, pruner, 3)
    run(fixed, still, 3)  # type: ignore[arg-type]
    pruner.finish()
    still.finish()
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), fixed.state_dict().values(), strict=True)
    )


def test_gradients_of_several_forwards_add_up_and_crafting_leaves_none() -> None:
    from hedgerow.attacks import crafting

    model, pruner = small_model(), DNR()
    pruner.attach(model, Budget(0.5))
    x, y = batches(0)[0]
    found = []
    for shared in (True, False):
        again = copy.deepcopy(model)
        moving = again[5].parametrizations.weight[0]
        with crafting(again) as inner:
            point = x.clone().requires_grad_()
            torch.autograd.grad(F.cross_entropy(inner(point), y), point)
        assert moving.gradient is None
        if shared:
            with shared_weights(again):
                (F.cross_entropy(again(x), y) + F.cross_entropy(again(x / 2), y)).backward()
        else:
            (F.cross_entropy(again(x), y) + F.cross_entropy(again(x / 2), y)).backward()
        found.append(moving.gradient)
    torch.testing.assert_close(found[0], found[1])


def test_other_dimensions_and_depthwise_layers() -> None:
    model = nn.Sequential(
        nn.Conv1d(2, 8, 3), nn.Conv1d(8, 8, 3, groups=8), nn.Unflatten(2, (1, 4, 3)), nn.Conv3d(8, 4, (1, 2, 2))
    )
    pruner = DNR()
    pruner.attach(model, Budget(0.5, "erk"))
    total = sum(pruner.live().values())
    for epoch in (0, 1):
        model(torch.rand(2, 2, 16)).square().sum().backward()
        pruner.after_backward()
        pruner.after_step(Progress(epoch, 3, 0, 4))
    assert sum(int(mask.sum()) for mask in pruner.finish().values()) == total


def test_a_layer_without_gradient_does_not_stop_it() -> None:
    model = small_model()
    model[0].weight.requires_grad_(False)
    pruner = DNR()
    pruner.attach(model, Budget(0.5))
    run(model, pruner, 3)
    pruner.finish()
    assert not model[0].weight.requires_grad
    assert model[5].weight.requires_grad


def test_momenta_that_are_not_numbers_are_left_to_the_loop() -> None:
    model, pruner = small_model(), DNR()
    pruner.attach(model, Budget(0.5))
    masks = {n: m.mask.clone() for n, m in pruner.moving.items()}
    pruner.moving["5.weight"].get_buffer("v").fill_(torch.nan)
    pruner.after_step(Progress(1, 3, 0, 4))
    assert all(torch.equal(masks[n], m.mask) for n, m in pruner.moving.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"removal": 1.0}, "removal is 1.0"),
        ({"removal": -0.1}, "removal is -0.1"),
        ({"removal_end": 0.6}, "between 0 and removal"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"rho": -1.0}, "rho is -1.0"),
        ({"rho": math.nan}, "rho is nan"),
    ],
)
def test_bad_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DNR(**options)  # type: ignore[arg-type]


def test_no_filters_and_no_patterns() -> None:
    with pytest.raises(ModelError, match="no 'filter' form: a filter regrown at 0 has gradients without scale"):
        DNR(granularity="filter")
    with pytest.raises(ModelError, match="it learns how much each layer keeps, and 2:4 fixes that"):
        DNR(granularity="2:4")
