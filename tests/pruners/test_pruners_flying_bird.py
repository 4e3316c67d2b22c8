"""Flying Bird against a slow loop, its limits, and what it keeps at every step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rewiring_cases import batches, dense_weights, run, sgd, slow_cosine, slow_drop, slow_grow, small_model
from torch.nn import functional as F

from hedgerow.errors import ModelError
from hedgerow.pruners import FixedMask, Progress
from hedgerow.pruners.flying_bird import FlyingBird, exchange_count
from hedgerow.sparsity import Budget, prunable_weights


def test_how_many_weights_move() -> None:
    assert exchange_count(100, 1000, 0.5) == 50
    assert exchange_count(11, 1000, 0.5) == 6
    assert exchange_count(100, 1000, 0.07) == 7  # 7.000000000000001 in floats
    assert exchange_count(1, 1000, 0.5) == 0  # the last one stays
    assert exchange_count(95, 100, 0.5) == 5  # there are no more free places
    assert exchange_count(100, 100, 0.5) == 0


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("sparsity", [0.05, 0.5, 0.9])
def test_it_is_the_slow_method_bit_for_bit(sparsity: float, every: int) -> None:
    """The method written out on a plain network: drop by |w| and grow by the batch's gradient in each layer."""
    epochs = 5
    model, pruner = small_model(), FlyingBird(every=every)
    budget = Budget(sparsity, "erk")
    keep = budget.keep(dense_weights(model))
    pruner.attach(model, budget)
    masks = {name: moving.mask.clone() for name, moving in pruner.moving.items()}
    first = {name: mask.clone() for name, mask in masks.items()}
    plain = small_model()
    weights: dict[str, Any] = {name: weight.dense for name, weight in prunable_weights(plain).items()}
    with torch.no_grad():
        for name, weight in weights.items():
            weight[~masks[name]] = 0.0
    run(model, pruner, epochs)

    optimizer = sgd([{"params": list(plain.parameters())}])
    for epoch in range(epochs):
        for step, (x, y) in enumerate(batches(epoch)):
            optimizer.zero_grad()
            F.cross_entropy(plain(x), y).backward()
            dense_gradients = {name: weight.grad.clone() for name, weight in weights.items()}
            for name, weight in weights.items():
                weight.grad[~masks[name]] = 0.0
            optimizer.step()
            with torch.no_grad():
                for name, weight in weights.items():
                    weight[~masks[name]] = 0.0
                    if epoch > 0 and step == 0 and epoch % every == 0:
                        share = slow_cosine(0.5, 0.005, epoch, epochs)
                        count = exchange_count(keep[name], weight.numel(), share)
                        survivors = slow_drop(weight.detach(), masks[name], count)
                        weight[~survivors] = 0.0
                        masks[name] = slow_grow(dense_gradients[name], survivors, count)
                        assert int(masks[name].sum()) == keep[name]
    found = pruner.finish()
    assert all(torch.equal(mask, masks[name]) for name, mask in found.items())
    assert any(not torch.equal(mask, first[name]) for name, mask in found.items())
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_counts_and_zeros_hold_after_every_step(optimizer: str) -> None:
    model, pruner = small_model(), FlyingBird()
    pruner.attach(model, Budget(0.8, "erk"))
    keep = pruner.live()

    def watch(progress: Progress) -> None:
        assert pruner.live() == keep
        for name, weight in pruner.weights.items():
            assert (weight.dense.detach()[~pruner.moving[name].mask] == 0).all()
            assert pruner.moving[name].gradient is None  # no batch's gradient is held longer than its step

    make = {"sgd": sgd, "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1)}
    run(model, pruner, 5, make=make[optimizer], watch=watch)
    assert pruner.state_dict() == {}  # between steps, masks are all there is to remember


def test_with_nothing_to_move_it_is_training_under_its_first_masks() -> None:
    model, fixed = small_model(), small_model()
    pruner = FlyingBird(removal=0.0, removal_end=0.0, seed=5)
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


def test_another_seed_starts_elsewhere() -> None:
    first = []
    for seed in (0, 0, 1):
        pruner = FlyingBird(seed=seed)
        pruner.attach(small_model(), Budget(0.5))
        first.append(pruner.finish()["5.weight"])
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_gradients_that_are_not_numbers_are_left_to_the_loop() -> None:
    model, pruner = small_model(), FlyingBird()
    pruner.attach(model, Budget(0.5))
    before = pruner.moving["0.weight"].mask.clone()
    pruner.moving["0.weight"].gradient = torch.full_like(before, torch.nan, dtype=torch.float64)
    pruner.after_step(Progress(1, 3, 0, 4))
    assert torch.equal(pruner.moving["0.weight"].mask, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"removal": 1.5}, "removal is 1.5"),
        ({"removal_end": -1}, "between 0 and removal"),
        ({"every": 0}, "every is 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlyingBird(**options)


def test_no_filters_and_no_patterns() -> None:
    with pytest.raises(ModelError, match="no 'filter' form"):
        FlyingBird(granularity="filter")
    with pytest.raises(ModelError, match="no '2:4' form: what it drops in one place it regrows in any other"):
        FlyingBird(granularity="2:4")
