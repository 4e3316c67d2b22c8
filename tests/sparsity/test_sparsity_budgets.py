"""How a budget is spread over the layers, against slow loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.sparsity import CHANNEL, DISTRIBUTIONS, FILTER, KERNEL, WEIGHT, Budget, Granularity, kept_count

SHAPES = {"stem": (16, 3, 3, 3), "depthwise": (16, 1, 3, 3), "middle": (32, 16, 3, 3), "head": (10, 32)}


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator) * (1 + i) for i, (n, s) in enumerate(SHAPES.items())}


def total() -> int:
    return sum(math.prod(s) for s in SHAPES.values())


@settings(deadline=None, max_examples=60)
@given(
    sparsity=st.integers(0, 995).map(lambda t: t / 1000),
    distribution=st.sampled_from(list(DISTRIBUTIONS)),
    seed=st.integers(0, 3),
)
def test_every_distribution_meets_the_total_and_empties_no_layer(
    sparsity: float, distribution: str, seed: int
) -> None:
    budget = Budget(sparsity, distribution)
    keep = budget.keep(weights(seed))
    assert set(keep) == set(SHAPES)
    for name, shape in SHAPES.items():
        assert 1 <= keep[name] <= math.prod(shape)
    wanted = kept_count(total(), budget.sparsity)
    floors = sum(math.ceil(0.01 * math.prod(s)) for s in SHAPES.values())
    if distribution == "uniform":  # each layer rounds for itself, towards keeping
        assert 0 <= sum(keep.values()) - wanted < len(SHAPES)
    elif wanted >= floors:
        assert sum(keep.values()) == wanted


@pytest.mark.parametrize("distribution", list(DISTRIBUTIONS))
def test_nothing_removed_keeps_everything(distribution: str) -> None:
    assert Budget(0, distribution).keep(weights()) == {n: math.prod(s) for n, s in SHAPES.items()}


def test_erk_follows_its_formula_and_fills_small_layers_first() -> None:
    keep = Budget(0.8, "erk").keep(weights())
    raw = {n: sum(s) / math.prod(s) for n, s in SHAPES.items()}
    dense: set[str] = set()
    for _ in SHAPES:  # the slow way: one overfull layer at a time
        left = 0.2 * total() - sum(math.prod(SHAPES[n]) for n in dense)
        scale = left / sum(raw[n] * math.prod(SHAPES[n]) for n in SHAPES if n not in dense)
        over = [n for n in SHAPES if n not in dense and scale * raw[n] > 1]
        if not over:
            break
        dense.add(max(over, key=lambda n: raw[n]))
    assert dense
    for name, shape in SHAPES.items():
        density = 1.0 if name in dense else scale * raw[name]
        assert keep[name] == pytest.approx(density * math.prod(shape), abs=1)


def test_lamp_equals_its_definition() -> None:
    scores = []
    for name, weight in weights().items():
        flat = weight.flatten().tolist()
        for w in flat:
            scores.append((w * w / sum(v * v for v in flat if v * v >= w * w), name))
    scores.sort(reverse=True)
    chosen = [name for _, name in scores[: kept_count(total(), Budget(0.9).sparsity)]]
    assert Budget(0.9, "lamp").keep(weights()) == {name: chosen.count(name) for name in SHAPES}


def test_one_global_threshold_keeps_the_largest_weights_of_the_network() -> None:
    everything = sorted(((abs(v), n) for n, w in weights().items() for v in w.flatten().tolist()), reverse=True)
    chosen = [name for _, name in everything[: kept_count(total(), Budget(0.5).sparsity)]]
    assert Budget(0.5, "global").keep(weights()) == {name: chosen.count(name) for name in SHAPES}


def test_one_global_threshold_leaves_a_floor_to_weak_layers() -> None:
    weak = {**weights(), "stem": weights()["stem"] * 1e-6}
    assert Budget(0.9, "global").keep(weak)["stem"] == math.ceil(0.01 * math.prod(SHAPES["stem"]))


@pytest.mark.parametrize("granularity", [FILTER, CHANNEL, KERNEL])
@pytest.mark.parametrize("distribution", list(DISTRIBUTIONS))
def test_groups_stay_within_the_budget_in_weights(granularity: Granularity, distribution: str) -> None:
    keep = Budget(0.5, distribution).keep(weights(), granularity)
    size = {n: w.numel() // granularity.count(w) for n, w in weights().items()}
    kept = sum(keep[n] * size[n] for n in keep)
    slack = sum(size.values()) if distribution == "uniform" else max(size.values())
    assert abs(kept - 0.5 * total()) <= slack


def test_a_mask_is_constant_along_its_group() -> None:
    weight = weights()["middle"]
    for granularity, axes in ((FILTER, (1, 2, 3)), (CHANNEL, (0, 2, 3)), (KERNEL, (2, 3))):
        mask = granularity.mask(weight.abs(), 7)
        assert torch.equal(mask.all(dim=axes[0], keepdim=True), mask.any(dim=axes[0], keepdim=True))
        assert mask.float().mean(dim=axes).sum().item() == pytest.approx(7)
        norms = weight.abs().sum(dim=axes).flatten()
        assert set(mask.float().mean(dim=axes).flatten().nonzero().flatten().tolist()) == set(
            norms.topk(7).indices.tolist()
        )
    assert WEIGHT.mask(weight.abs(), 7).sum() == 7


def test_a_depthwise_convolution_has_its_channels_on_the_output_axis() -> None:
    weight = weights()["depthwise"]
    assert CHANNEL.count(weight) == 16
    assert CHANNEL.mask(weight.abs(), 3).flatten(1).all(1).sum() == 3
