"""Units of coupled channels, from hand-made channel classes, against loops over the entries."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from coupled_cases import Classes, concatenated, dense, entries, numbers, residual, stream_places, units_of
from torch import nn

from hedgerow.errors import ModelError
from hedgerow.sparsity import (
    CHANNEL,
    DISTRIBUTIONS,
    FILTER,
    WEIGHT,
    Budget,
    Granularity,
    coupled_units,
    kept_count,
    prunable_weights,
    separate_units,
)


@pytest.mark.parametrize("granularity", [CHANNEL, FILTER], ids=lambda g: g.name)
def test_a_channel_lies_in_all_layers_that_share_it(granularity: Granularity) -> None:
    units, model = units_of(residual, granularity)
    weights, places = dense(model), stream_places(granularity)
    name = {"channel": "a.weight", "filter": "stem.weight"}[granularity.name]
    assert {n: u.count for n, u in units.items()} == (
        {"a.weight": 6, "b.weight": 3} if granularity is CHANNEL else {"stem.weight": 6, "a.weight": 3}
    )
    unit = units[name]
    assert list(unit.weights) == list(dict.fromkeys(place[0] for place in places[0]))
    scores = unit.scores({n: w.abs() for n, w in weights.items()})
    assert scores.tolist() == pytest.approx([sum(map(abs, entries(weights, p))) for p in places], rel=1e-5)
    norms = [math.sqrt(sum(v * v for v in entries(weights, p))) for p in places]
    assert unit.norms(weights).tolist() == pytest.approx(norms, rel=1e-5)


@pytest.mark.parametrize("granularity", [CHANNEL, FILTER], ids=lambda g: g.name)
def test_all_layers_lose_the_same_channels_and_fixed_ones_stay(granularity: Granularity) -> None:
    units, model = units_of(residual, granularity)
    weights = dense(model)
    keep = Budget("1/2").keep(weights, units)
    masks = units.masks(units.select(units.scores({n: w.abs() for n, w in weights.items()}), keep), weights)
    assert list(masks) == list(weights)
    places = stream_places(granularity)
    sums = [sum(map(abs, entries(weights, place))) for place in places]
    best = sorted(range(6), key=lambda c: -sums[c])[:3]
    expected = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    for channel, place in enumerate(places):
        for name, axis, i in place if channel not in best else []:
            expected[name].select(axis, i)[...] = False
    inside = ("b.weight", 1) if granularity is CHANNEL else ("a.weight", 0)
    others = [d for d in range(4) if d != inside[1]]
    weakest = weights[inside[0]].abs().sum(others).argmin().item()
    expected[inside[0]].select(inside[1], weakest)[...] = False  # 2 of the 3 channels inside stay
    assert all(torch.equal(masks[name], expected[name]) for name in weights)
    whole = "stem.weight" if granularity is CHANNEL else "fc.weight"
    assert units.whole == {whole}
    why = {"stem.weight": "the image", "fc.weight": "the outputs"}[whole]
    assert units.remarks == (f"{whole}: stays whole ({why})",)


def test_a_depthwise_layer_passes_channels_on_to_layers_that_lose_them_too() -> None:
    def passing(granularity: Granularity, classes: Classes) -> list[str]:
        units = coupled_units(prunable_weights(model), granularity, classes)
        return [name for unit in units.values() for name in unit.weights if unit.passes_on(name)]

    model, classes = residual()
    assert passing(CHANNEL, classes) == ["depthwise.weight"]
    assert passing(FILTER, classes) == []
    classes.inputs["a matrix of the model's own"] = numbers([7])  # reads the last channel and loses nothing
    assert passing(CHANNEL, classes) == []
    model, classes = residual()
    for name in ("a.weight", "fc.weight"):
        classes.inputs[name] = classes.inputs["stem.weight"].repeat(12)[: len(classes.inputs[name])]
    assert passing(CHANNEL, classes) == []  # nobody is left who reads it


def test_layers_that_read_some_channels_together_have_a_unit_for_each_set() -> None:
    units, model = units_of(concatenated, CHANNEL)
    weights = dense(model)
    assert {n: (u.weights, u.count) for n, u in units.items()} == {
        "first.weight": (("first.weight", "second.weight"), 3),
        "second.weight": (("second.weight",), 2),
    }
    assert units.on("second.weight") == (units["first.weight"], units["second.weight"])
    live = {"first.weight": torch.tensor([True, False, True]), "second.weight": torch.tensor([False, True])}
    masks = units.masks(live, weights)
    assert masks["first.weight"].all(0).tolist() == [True, False, True]
    assert masks["second.weight"].all(0).tolist() == [True, True, False, True, False, True]
    assert masks["second.weight"].any(0).tolist() == masks["second.weight"].all(0).tolist()
    assert masks["third.weight"].all()
    assert units.whole == {"third.weight"}
    assert units.coupled() == [("first.weight", "second.weight")]
    assert units.remarks == (
        "second.weight: 1 of 6 channels stay (the image)",
        "third.weight: no layer of the traced forward pass, so it stays whole",
    )


def test_channels_that_a_layer_reads_twice_are_another_unit() -> None:
    model = nn.ModuleDict({"one": nn.Linear(6, 2)})
    classes = Classes(
        {"one.weight": numbers([0, 1, 2, 3, 0, 1])}, {"one.weight": numbers([4, 5])}, frozenset([4, 5])
    )
    units = coupled_units(prunable_weights(model), CHANNEL, classes)
    assert {n: u.count for n, u in units.items()} == {"one.weight": 2, "one.weight #2": 2}
    live = {"one.weight": torch.tensor([False, True]), "one.weight #2": torch.tensor([True, False])}
    assert units.masks(live, dense(model))["one.weight"][0].tolist() == [False, True, True, False, False, True]


def test_values_between_0_and_1_are_spread_like_masks() -> None:
    units, model = units_of(concatenated, CHANNEL)
    factors = {"first.weight": torch.tensor([0.5, 0.0, 2.0]), "second.weight": torch.tensor([0.25, 1.5])}
    like = dense(model)
    assert units.spread(factors, "second.weight", like["second.weight"])[3].tolist() == [1, 0.5, 0, 2, 0.25, 1.5]
    assert units.spread(factors, "third.weight", like["third.weight"]).tolist() == [[1, 1], [1, 1]]


def test_the_gradient_of_a_channels_norm_is_its_direction_and_zero_at_zero() -> None:
    model, classes = residual()
    weights = prunable_weights(model)
    with torch.no_grad():
        for name, axis, i in stream_places(CHANNEL)[2]:
            weights[name].dense.select(axis, i).zero_()
        weights["a.weight"].dense[:, 4] = 0.0  # a part of a channel
    unit = coupled_units(weights, CHANNEL, classes)["a.weight"]
    norms = unit.norms({name: weight.dense for name, weight in weights.items()})
    norms.sum().backward()
    for channel, place in enumerate(stream_places(CHANNEL)):
        for name, axis, i in place:
            gradient, value = weights[name].dense.grad, weights[name].dense.detach()
            assert gradient is not None
            length = norms[channel].item() or 1.0
            torch.testing.assert_close(gradient.select(axis, i), value.select(axis, i) / length)


@pytest.mark.parametrize("granularity", [CHANNEL, FILTER], ids=lambda g: g.name)
@pytest.mark.parametrize("distribution", list(DISTRIBUTIONS))
@pytest.mark.parametrize("make", [residual, concatenated])
def test_a_channel_counts_once_and_fixed_ones_not_at_all(
    make: Callable[[], tuple[nn.Module, Classes]], granularity: Granularity, distribution: str
) -> None:
    if make is concatenated and granularity is FILTER:
        return  # one unit of 2 channels
    units, model = units_of(make, granularity)
    weights = dense(model)
    sizes = units.scores({n: torch.ones_like(w) for n, w in weights.items()})
    assert all(size.unique().numel() == 1 for size in sizes.values())
    everything = int(sum(size.sum().item() for size in sizes.values()))
    for sparsity in (0, 0.3, 0.5, 0.8):
        budget = Budget(sparsity, distribution)
        keep = budget.keep(weights, units)
        assert all(1 <= keep[name] <= unit.count for name, unit in units.items())
        if distribution == "uniform":
            assert keep == {name: kept_count(unit.count, budget.sparsity) for name, unit in units.items()}
        kept = sum(keep[name] * sizes[name][0].item() for name in units)
        target = max(kept_count(everything, budget.sparsity), sum(size[0].item() for size in sizes.values()))
        slack = sum(size[0].item() for size in sizes.values()) * (2 if distribution == "uniform" else 1)
        assert abs(kept - target) <= slack
        assert sparsity or kept == everything


def test_one_global_threshold_goes_by_the_mean_weight_of_a_channel() -> None:
    units, model = units_of(residual, CHANNEL)
    weights = dense(model)
    places = stream_places(CHANNEL) + [[("b.weight", 1, i)] for i in range(3)]
    means = [sum(map(abs, entries(weights, p))) / len(entries(weights, p)) for p in places]
    order = sorted(range(9), key=lambda i: -means[i])
    left = kept_count(sum(len(entries(weights, p)) for p in places), Budget("0.6").sparsity)
    first = [max(range(6), key=lambda i: means[i]), max(range(6, 9), key=lambda i: means[i])]
    chosen = list(first)  # no unit loses its last
    for i in [*first, *(i for i in order if i not in first)]:
        left -= len(entries(weights, places[i]))
        if left < 0:
            break
        chosen = [*dict.fromkeys([*chosen, i])]
    expected = {"a.weight": sum(i < 6 for i in chosen), "b.weight": sum(i >= 6 for i in chosen)}
    assert Budget("0.6", "global").keep(weights, units) == expected


def test_erk_gives_a_unit_the_mean_proportion_of_its_weights() -> None:
    model = nn.ModuleDict({"small": nn.Linear(60, 5), "large": nn.Linear(60, 200), "other": nn.Linear(40, 10)})
    inputs = {"small": range(60), "large": range(60), "other": range(60, 100)}
    fixed = {f"{n}.weight": torch.full((len(layer.bias),), 100) for n, layer in model.items()}
    classes = Classes({f"{n}.weight": numbers(ids) for n, ids in inputs.items()}, fixed, frozenset([100]))
    units = coupled_units(prunable_weights(model), CHANNEL, classes)
    # The proportions: (65 / 300 * 300 + 260 / 12000 * 12000) / 12300 for 12300 weights, 50 / 400 for 400.
    scale = 635 / (65 + 260 + 50)  # a twentieth of 12700 weights stays
    keep = Budget("0.95", "erk").keep(dense(model), units)
    assert abs(keep["small.weight"] - 60 * scale * 325 / 12300) < 1
    assert 0 <= keep["other.weight"] - int(40 * scale * 50 / 400) <= 2  # what is owed fits here alone
    assert abs(205 * keep["small.weight"] + 10 * keep["other.weight"] - 635) < 205


def test_separate_weights_are_what_the_granularity_says() -> None:
    model, _ = residual()
    weights = dense(model)
    units = separate_units(weights, CHANNEL, whole=["stem.weight"])
    assert {n: u.count for n, u in units.items()} == {
        "a.weight": 6, "b.weight": 3, "depthwise.weight": 6, "fc.weight": 24,
    }  # fmt: skip
    assert units.whole == {"stem.weight"}
    assert units.coupled() == [("a.weight",), ("b.weight",), ("depthwise.weight",), ("fc.weight",)]
    live = units.select(
        units.norms(weights), {"a.weight": 2, "b.weight": 1, "depthwise.weight": 5, "fc.weight": 7}
    )
    masks = units.masks(live, weights)
    assert {n: int(m.sum()) for n, m in masks.items()} == {
        "stem.weight": 108, "a.weight": 2 * 27, "b.weight": 54, "depthwise.weight": 45, "fc.weight": 21,
    }  # fmt: skip
    assert separate_units({}, WEIGHT).masks({}, {}) == {}


def test_a_network_without_a_channel_that_may_go_is_refused() -> None:
    model = nn.ModuleDict({"only": nn.Linear(2, 3)})
    classes = Classes(
        {"only.weight": numbers([0, 1])},
        {"only.weight": numbers([2, 3, 4])},
        frozenset(range(5)),
        {0: "the image"},
    )
    with pytest.raises(
        ModelError, match=r"no channel may be removed: only\.weight: stays whole \(the image; they must"
    ):
        coupled_units(prunable_weights(model), CHANNEL, classes)


def test_classes_of_another_model_are_refused() -> None:
    model, classes = residual()
    classes.inputs["a.weight"] = numbers(range(5))
    with pytest.raises(ModelError, match=r"a\.weight has 6 indices on axis 1, its channel classes are 5"):
        coupled_units(prunable_weights(model), CHANNEL, classes)
