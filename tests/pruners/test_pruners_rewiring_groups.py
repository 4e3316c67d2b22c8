"""DNR and Flying Bird on groups against slow loops, and channels that layers share moving as one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import unit_cases
from dense_cases import begin, dense_weights, loop, seen_weights
from rewiring_cases import Watched, slow_cosine, slow_drop, slow_grow, slow_growth, slow_removal
from torch import Tensor
from unit_cases import EXAMPLE, Group, all_groups, coupled, norm, values

from hedgerow.pruners import Progress
from hedgerow.pruners.dnr import group_means
from hedgerow.pruners.flying_bird import FlyingBird, exchange_count
from hedgerow.pruners.rewiring import Rewiring
from hedgerow.sparsity import KERNEL, Budget, separate_units, sparse_view

EPOCHS = 5
every_form = pytest.mark.parametrize("form", ["channel", "kernel", "block-4x1"])


@pytest.fixture(autouse=True)
def _one_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    unit_cases.trace_once(monkeypatch)


def alive(masks: dict[str, Tensor], groups: list[Group]) -> Tensor:
    """Which groups live, `[groups]`; every one as a whole."""
    found = []
    for group in groups:
        (each,) = {bool(masks[name].flatten()[i]) for name, i in group}
        found.append(each)
    return torch.tensor(found)


def norms(weights: dict[str, Tensor], groups: list[Group]) -> Tensor:
    return torch.tensor([norm(weights, group) for group in groups], dtype=torch.float64)


def part(state: dict[str, dict[str, Tensor]], key: str) -> dict[str, Tensor]:
    return {name: tensors[key] for name, tensors in state.items() if key in tensors}


def as_masks(live: dict[str, Tensor], form: str, like: dict[str, Tensor]) -> dict[str, Tensor]:
    masks = {name: torch.ones_like(tensor, dtype=torch.bool) for name, tensor in like.items()}
    for unit, groups in all_groups(form).items():
        for group, lives in zip(groups, live[unit].tolist(), strict=True):
            for name, i in group:
                masks[name].view(-1)[i] = lives
    return masks


@every_form
@pytest.mark.parametrize("sparsity", ["1/4", "0.6"])
def test_every_rewiring_of_dnr_against_the_slow_method(form: str, sparsity: str) -> None:
    pruner = Watched(granularity=form, rho=0.3)
    model, optimizer = begin(pruner, Budget(sparsity), network=coupled, example=EXAMPLE)
    total = sum(pruner.live().values())
    loop(model, pruner, optimizer, epochs=EPOCHS)
    assert len(pruner.seen) == EPOCHS - 1
    for seen in pruner.seen:
        check_rewiring(form, seen, slow_cosine(0.5, 0.005, seen["progress"].epoch, EPOCHS))
        left = part(seen["after"], "mask")
        assert sum(int(alive(left, groups).sum()) for groups in all_groups(form).values()) == total
    moved = [
        not torch.equal(s["before"][n]["mask"], s["after"][n]["mask"]) for s in pruner.seen for n in pruner.moving
    ]
    assert any(moved)
    masks = pruner.finish()
    assert sum(int(alive(masks, groups).sum()) for groups in all_groups(form).values()) == total


def check_rewiring(form: str, seen: dict[str, Any], p: float) -> None:
    before, after = seen["before"], seen["after"]
    theta, v, masks = (part(before, key) for key in ("theta", "v", "mask"))
    live = {unit: alive(masks, groups) for unit, groups in all_groups(form).items()}
    means = {}
    for unit, groups in all_groups(form).items():
        each = [sum(abs(x) for x in values(v, group)) / len(group) for group in groups]
        means[unit] = sum(m for m, lives in zip(each, live[unit].tolist(), strict=True) if lives)
        means[unit] /= int(live[unit].sum())
    mu = {unit: mean / sum(means.values()) for unit, mean in means.items()}
    counts = {unit: int(each.sum()) for unit, each in live.items()}
    sizes = {unit: len(groups) for unit, groups in all_groups(form).items()}
    removed = slow_removal(counts, sizes, mu, p)
    grown = slow_growth(sum(removed.values()), {n: sizes[n] - counts[n] + removed[n] for n in sizes}, mu)
    stay = {n: slow_drop(norms(theta, g), live[n], removed[n]) for n, g in all_groups(form).items()}
    then = {n: slow_grow(norms(v, g), stay[n], grown[n]) for n, g in all_groups(form).items()}
    survivors, expected = as_masks(stay, form, theta), as_masks(then, form, theta)
    for name, mask in part(after, "mask").items():
        assert torch.equal(mask, expected[name])
        z = theta[name] + before[name]["u"]
        if (
            form == "channel" and name == "depthwise.weight"
        ):  # it passes on what its readers lose, and trains whole
            assert torch.equal(after[name]["theta"], theta[name])
        else:
            assert torch.equal(after[name]["theta"], theta[name] * survivors[name])  # regrown groups start at 0
            z = z * mask
        torch.testing.assert_close(after[name]["z"], z)
        torch.testing.assert_close(after[name]["u"], before[name]["u"] + theta[name] - z)


class Heard(FlyingBird):
    """Keeps what every exchange found and left."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[dict[str, Any]] = []

    def rewire(self, progress: Progress) -> None:
        masks = {name: moving.mask.clone() for name, moving in self.moving.items()}
        theta, gradients = dense_weights(self.model), {n: m.gradient for n, m in self.moving.items()}
        super().rewire(progress)
        after = {name: moving.mask.clone() for name, moving in self.moving.items()}
        self.seen.append({"epoch": progress.epoch, "masks": masks, "theta": theta, "g": gradients, "after": after})


@every_form
def test_every_exchange_of_flying_bird_against_the_slow_method(form: str) -> None:
    pruner = Heard(granularity=form)
    model, optimizer = begin(pruner, Budget("0.6"), network=coupled, example=EXAMPLE)
    loop(model, pruner, optimizer, epochs=EPOCHS)
    assert len(pruner.seen) == EPOCHS - 1
    moved = 0
    for seen in pruner.seen:
        for groups in all_groups(form).values():
            live = alive(seen["masks"], groups)
            keep = len(groups) - int(0.6 * len(groups) + 1e-9)
            assert int(live.sum()) == keep
            count = exchange_count(keep, len(groups), slow_cosine(0.5, 0.005, seen["epoch"], EPOCHS))
            stay = slow_drop(norms(seen["theta"], groups), live, count)
            assert torch.equal(alive(seen["after"], groups), slow_grow(norms(seen["g"], groups), stay, count))
            moved += count
    assert moved > 0


@pytest.mark.parametrize("make", [Watched, FlyingBird])
def test_a_depthwise_layer_hands_on_channels_that_are_removed_behind_it(make: type[Rewiring]) -> None:
    """It is seen whole while it trains, so that the layer behind it hears of them, and masked in the view."""
    pruner = make(granularity="channel")
    model, optimizer = begin(pruner, Budget("0.6"), network=coupled, example=EXAMPLE)
    heard: dict[str, Tensor] = {}

    def watch(_: Progress) -> None:
        moving = pruner.moving["depthwise.weight"]
        assert torch.equal(seen_weights(model)["depthwise.weight"], dense_weights(model)["depthwise.weight"])
        assert (seen_weights(model)["depthwise.weight"][~moving.mask] != 0).all()
        with sparse_view(model):
            assert (seen_weights(model)["depthwise.weight"][~moving.mask] == 0).all()

    rewire = pruner.rewire

    def listen(progress: Progress) -> None:
        gradient = pruner.moving["fc.weight"].gradient
        assert gradient is not None
        heard["fc"] = gradient[~pruner.moving["fc.weight"].mask]
        rewire(progress)

    pruner.rewire = listen  # type: ignore[method-assign]
    loop(model, pruner, optimizer, epochs=2, watch=watch)
    assert heard["fc"].count_nonzero() > 0.2 * heard["fc"].numel()
    with sparse_view(model), torch.no_grad():
        before = model.eval()(EXAMPLE)
    with torch.no_grad():
        torch.testing.assert_close(model(EXAMPLE), before)  # readers that are 0 hear nothing of it
    pruner.finish()
    with torch.no_grad():
        assert torch.equal(model(EXAMPLE), before)


def test_the_mean_momentum_of_a_group_counts_its_entries() -> None:
    v = {"a": torch.tensor([[[1.0, -3.0]], [[0.0, 4.0]]])}
    found = group_means(v, separate_units(v, KERNEL))
    assert found["a"].flatten().tolist() == [2.0, 2.0]


def test_a_rescaled_start_makes_up_for_the_channels_that_are_gone() -> None:
    pruner = FlyingBird(granularity="channel", rescale=True)
    model, dense = coupled(), coupled()
    pruner.attach(model, Budget("1/2"), example=EXAMPLE)
    for name, weight in dense_weights(dense).items():
        mask = pruner.moving[name].mask if name in pruner.moving else torch.ones_like(weight, dtype=torch.bool)
        factor = 1.0 if name in ("stem.weight", "depthwise.weight") else 2**0.5
        torch.testing.assert_close(dense_weights(model)[name][mask], factor * weight[mask])
