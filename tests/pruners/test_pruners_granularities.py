"""One table over every method and every granularity it offers, on a network whose layers share channels."""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import unit_cases
from dense_cases import begin, loop, resumed_equals_whole
from torch import Tensor, nn
from unit_cases import EXAMPLE, all_groups, coupled, every_case, sparsity_of

from hedgerow.files import read_tensors, write_tensors
from hedgerow.pruners import PRUNERS, FixedMask, Pruner
from hedgerow.sparsity import Budget, Masks, attach_masks, parse_granularity, prunable_weights, sparse_view


@pytest.fixture(autouse=True)
def _one_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    unit_cases.trace_once(monkeypatch)


def made(method: str, form: str) -> Pruner:
    return PRUNERS[method](granularity=form)  # type: ignore[call-arg]


def pruned(method: str, form: str) -> tuple[nn.Module, Masks]:
    state, masks = finished(method, form, "uniform")
    model = coupled()
    model.load_state_dict(state)
    return model, masks


@functools.cache
def finished(method: str, form: str, distribution: str) -> tuple[dict[str, Tensor], Masks]:
    """The state of the finished network, and its masks."""
    pruner = made(method, form)
    model, optimizer = begin(pruner, Budget(sparsity_of(form), distribution), network=coupled, example=EXAMPLE)
    if pruner.learns:
        loop(model, pruner, optimizer, epochs=2)
        with sparse_view(model):
            shown = {n: getattr(w.module, w.attribute).detach().clone() for n, w in pruner.weights.items()}
    masks = pruner.finish()
    if pruner.learns:  # what was validated is what is handed over
        assert all(torch.equal(w.dense, shown[n]) for n, w in prunable_weights(model).items())
    assert [type(m) for m in model.modules()] == [type(m) for m in coupled().modules()]
    assert list(model.state_dict()) == list(coupled().state_dict())
    return model.state_dict(), masks


@every_case
def test_the_budget_is_met_exactly_in_whole_groups(method: str, form: str) -> None:
    model, masks = pruned(method, form)
    granularity, sparsity = parse_granularity(form), Fraction(sparsity_of(form))
    counted: dict[str, int] = {}
    grouped: dict[str, set[int]] = {name: set() for name in masks}
    for unit, groups in all_groups(form).items():
        live = 0
        for group in groups:
            alive = {bool(masks[name].flatten()[i]) for name, i in group}
            for name, i in group:
                grouped[name].add(i)
            if granularity.density is None:
                assert len(alive) == 1  # the mask is constant along the group
                live += alive == {True}
            else:
                stay = math.ceil(len(group) * granularity.density)
                assert sum(bool(masks[name].flatten()[i]) for name, i in group) == stay
        counted[unit] = live
        if granularity.density is None and not PRUNERS[method].learns_budget:
            assert live == len(groups) - math.floor(sparsity * len(groups)), unit
    if PRUNERS[method].learns_budget:
        asked = sum(len(g) - math.floor(sparsity * len(g)) for g in all_groups(form).values())
        assert 0 < sum(counted.values()) <= asked
    for name, mask in masks.items():
        outside = [i for i in range(mask.numel()) if i not in grouped[name]]
        assert mask.flatten()[outside].all()
        nonzero = prunable_weights(model)[name].dense != 0
        if PRUNERS[method].from_scratch:  # what is regrown at 0 where no gradient comes by stays there
            assert not (nonzero & ~mask).any()
            assert nonzero.sum() > 0.5 * mask.sum()
        else:
            assert torch.equal(nonzero, mask)


@every_case
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_zeros_stay_zero_under_momentum_and_weight_decay(method: str, form: str, optimizer: str) -> None:
    model, masks = pruned(method, form)
    before = {n: w.dense.detach().clone() for n, w in prunable_weights(model).items()}
    tuned = FixedMask(masks)
    tuned.attach(model)
    kind, more = {"sgd": (torch.optim.SGD, {"momentum": 0.9}), "adamw": (torch.optim.AdamW, {})}[optimizer]
    stepper = kind(tuned.parameters(), lr=0.05, weight_decay=0.1, **more)  # type: ignore[operator]

    def look(_: object) -> None:
        assert all((w.dense[~masks[n]] == 0).all() for n, w in tuned.weights.items())

    loop(model, tuned, stepper, epochs=1, watch=look)
    assert all(torch.equal(tuned.finish()[n], masks[n]) for n in masks)
    for name, weight in prunable_weights(model).items():
        assert (weight.dense[~masks[name]] == 0).all()
        assert not torch.equal(weight.dense, before[name])


@every_case
def test_it_resumes_bit_for_bit(method: str, form: str) -> None:
    budget, stop = Budget(sparsity_of(form)), (1, 2)
    if PRUNERS[method].learns:
        assert resumed_equals_whole(lambda: made(method, form), budget, stop, network=coupled, example=EXAMPLE)


@every_case
def test_the_finished_network_is_plain_and_survives_reload(method: str, form: str, tmp_path: Path) -> None:
    model, masks = pruned(method, form)
    fresh = coupled()
    write_tensors(tmp_path / "model.safetensors", model.state_dict())
    stored, _ = read_tensors(tmp_path / "model.safetensors")
    for name, mask in masks.items():
        bits = stored[name][~mask].numpy().tobytes()
        assert bits == bytes(len(bits))  # exactly +0
    fresh.load_state_dict(stored)
    x = torch.rand(4, 2, 8, 8)
    with torch.no_grad():
        assert torch.equal(fresh.eval()(x), model.eval()(x))
        attach_masks(fresh, masks)
        assert torch.equal(fresh(x), model(x))


@pytest.mark.parametrize("distribution", ["erk", "global", "lamp"])
@pytest.mark.parametrize("form", ["channel", "filter", "block-4x1", "kernel"])
@pytest.mark.parametrize("method", ["magnitude", "hydra", "admm", "rgsm"])
def test_other_distributions_spread_the_same_weights(method: str, form: str, distribution: str) -> None:
    _, masks = finished(method, form, distribution)
    kept = total = largest = 0.0
    for groups in all_groups(form).values():
        size = sum(map(len, groups)) / len(groups)  # blocks at an edge count like the others
        kept += size * sum(all(masks[name].flatten()[i] for name, i in group) for group in groups)
        total, largest = total + size * len(groups), max(largest, size)
    assert abs(kept - float(1 - Fraction(sparsity_of(form))) * total) <= largest


@pytest.mark.parametrize("method", ["magnitude", "hydra", "admm", "rgsm"])
@pytest.mark.parametrize("form", ["channel", "filter"])
def test_without_an_example_every_layer_has_channels_of_its_own(method: str, form: str) -> None:
    pruner = made(method, form)
    model = coupled()
    pruner.attach(model, Budget("1/2"))
    assert pruner.whole == {"channel": {"stem.weight"}, "filter": {"fc.weight"}}[form]
    assert pruner.remarks == ()
    masks = pruner.finish()
    for name, mask in masks.items():
        axis = 0 if form == "filter" or mask.shape[1] == 1 else 1
        line = mask.transpose(0, axis).flatten(1)
        assert torch.equal(line.any(1), line.all(1))
        size = len(line)
        assert int(line.any(1).sum()) == (size if name in pruner.whole else size - size // 2)


def test_the_real_trace_gives_the_same_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    ends: list[dict[str, Tensor]] = []
    for known in (False, True):
        if known:
            unit_cases.trace_once(monkeypatch)
        model = coupled().train()
        pruner = made("magnitude", "channel")
        pruner.attach(model, Budget("1/2"), example=EXAMPLE)
        assert model.training
        assert pruner.remarks == ("stem.weight: stays whole (the channels of the images)",)
        ends.append(pruner.finish())
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])
