"""Proximal maps against a search for the minimum, and l2 norms of groups against loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hedgerow.sparsity import CHANNEL, FILTER, GRANULARITIES, WEIGHT, Granularity, threshold_for
from hedgerow.sparsity.proximal import L0, L1, Regulariser, TransformedL1, scaled, shrinkage

PENALTIES: dict[str, tuple[Regulariser, Callable[[float], float]]] = {
    "l0": (L0(), lambda r: float(r > 0)),
    "l1": (L1(), lambda r: r),
    "transformed a=1": (TransformedL1(), lambda r: 2 * r / (1 + r)),
    "transformed a=0.1": (TransformedL1(0.1), lambda r: 1.1 * r / (0.1 + r)),
    "transformed a=50": (TransformedL1(50.0), lambda r: 51 * r / (50 + r)),
}
every_penalty = pytest.mark.parametrize(("regulariser", "penalty"), PENALTIES.values(), ids=PENALTIES)


def proximal(
    weight: Tensor, cut: Tensor, limit: float, *, regulariser: Regulariser, granularity: Granularity
) -> Tensor:
    factors = shrinkage(granularity.norms(weight), cut, regulariser=regulariser, limit=limit)
    return scaled(weight, granularity.expand(factors, weight))


def best(r: float, strength: float, penalty: Callable[[float], float], points: int = 20001) -> float:
    """Search the minimum of strength * P(y) + (y - r)^2 / 2 on a grid over [0, r]."""
    grid = [r * i / (points - 1) for i in range(points)]
    return min(grid, key=lambda y: strength * penalty(y) + (y - r) ** 2 / 2)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@every_penalty
@pytest.mark.parametrize("strength", [1e-3, 0.03, 0.3, 2.0])
def test_the_map_is_the_minimum(
    regulariser: Regulariser, penalty: Callable[[float], float], strength: float
) -> None:
    threshold = regulariser.threshold(strength)
    for factor in (0.3, 0.9, 0.98, 1.02, 1.1, 2.0, 10.0):
        r = factor * threshold
        found = best(r, strength, penalty)
        if factor < 1:
            assert found == 0.0
        else:
            shrunk = regulariser.shrunk(scalar(r), scalar(threshold)).item()
            assert shrunk == pytest.approx(found, abs=2e-4 * r)
            assert shrunk > 0


@pytest.mark.parametrize("a", [0.1, 1.0, 50.0])
def test_the_strength_of_a_threshold_is_the_inverse(a: float) -> None:
    regulariser = TransformedL1(a)
    for strength in (1e-6, 1e-3, 0.2, 0.25, 0.3, 5.0, 1000.0):
        threshold = scalar(regulariser.threshold(strength))
        assert regulariser.strength(threshold).item() == pytest.approx(strength)


@pytest.mark.parametrize("a", [0.1, 1.0, 50.0])
def test_small_weights_keep_their_digits_in_float32(a: float) -> None:
    threshold = torch.tensor(2e-5)
    norms = threshold * torch.tensor([1.0000001, 1.001, 1.5, 3.0, 100.0])
    found = TransformedL1(a).shrunk(norms, threshold)
    expected = TransformedL1(a).shrunk(norms.double(), threshold.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-11)
    assert (found > 0).all()


@every_penalty
def test_a_threshold_of_zero_changes_nothing_bit_for_bit(
    regulariser: Regulariser, penalty: Callable[[float], float]
) -> None:
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    weight[2] = 0.0
    for granularity in (WEIGHT, FILTER, CHANNEL):
        u = proximal(weight, torch.zeros(()), 0.0, regulariser=regulariser, granularity=granularity)
        assert torch.equal(u, weight)


@pytest.mark.parametrize("name", list(GRANULARITIES))
@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (4, 1, 3), (5, 7), (2, 2, 2, 1, 3)])
def test_groups_up_to_the_threshold_fall_and_the_others_keep_their_direction(
    name: str, shape: tuple[int, ...]
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    granularity = GRANULARITIES[name]
    axes = range(len(shape)) if granularity.axes is None else granularity.axes
    axes = (0,) if name == "channel" and shape[1] == 1 else axes
    expected, norms = torch.zeros_like(weight), []
    for place in itertools.product(*(range(shape[axis]) for axis in axes)):
        chosen: list[int | slice] = [slice(None)] * len(shape)
        for axis, position in zip(axes, place, strict=True):
            chosen[axis] = position
        entries = weight[tuple(chosen)].flatten().tolist()
        norm = math.sqrt(sum(x * x for x in entries))
        norms.append(norm)
        if norm > 0.8:
            expected[tuple(chosen)] = weight[tuple(chosen)] / norm * (norm - 0.8)
    torch.testing.assert_close(granularity.norms(weight).flatten(), torch.tensor(norms, dtype=torch.float64))
    u = proximal(weight, scalar(0.8), 0.8, regulariser=L1(), granularity=granularity)
    torch.testing.assert_close(u, expected)


def test_with_a_limit_on_the_groups_the_map_is_the_minimum_under_that_limit() -> None:
    weight = torch.tensor([0.9, -0.5, 0.3, -1.4], dtype=torch.float64)
    cut = threshold_for(weight.abs(), 2)
    u = proximal(weight, cut, 0.2, regulariser=L1(), granularity=WEIGHT)

    def cost(y: Tensor) -> float:
        return (0.2 * y.abs().sum() + 0.5 * (y - weight).square().sum()).item()

    supports = itertools.combinations(range(4), 2)
    candidates = []
    for support in supports:
        y = torch.zeros_like(weight)
        for i in support:
            y[i] = weight[i].sign() * best(abs(weight[i].item()), 0.2, lambda r: r)
        candidates.append(y)
    torch.testing.assert_close(u, min(candidates, key=cost), atol=1e-3, rtol=0)


def test_the_gradient_of_a_norm_is_the_direction_and_zero_at_zero() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    FILTER.norms(weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0]]


def test_the_threshold_for_a_count_is_the_largest_norm_removed() -> None:
    norms = torch.rand(3, 7, generator=torch.Generator().manual_seed(2))
    ordered = sorted(norms.flatten().tolist())
    for keep in range(21):
        assert threshold_for(norms, keep).item() == ordered[20 - keep]
        assert int((norms > threshold_for(norms, keep)).sum()) == keep
    assert threshold_for(norms, 21).item() == 0.0
    with pytest.raises(ValueError, match="cannot keep 22 of 21"):
        threshold_for(norms, 22)
