"""Rounding: bounds computed in single precision hold for the network in real arithmetic."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from gardens import Garden, dense, pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from layers_of_all_kinds import grown

from hedgerow.bounds import (
    METHODS,
    Method,
    Network,
    Rounding,
    ball,
    interval_least,
    interval_walk,
    linear_least,
    margin_bounds,
    output_bounds,
)
from hedgerow.bounds.rounding import whole_products
from hedgerow.threat import ThreatModel
from hedgerow.tracing import run


def test_gamma_is_the_error_bound_of_a_sum_of_products() -> None:
    rounding = Rounding.of(torch.float32)
    assert rounding.unit == 2**-24
    assert rounding.gamma(1000) == pytest.approx(1000 * 2**-24 / (1 - 1000 * 2**-24))
    assert rounding.gamma(2**24) == float("inf")
    assert Rounding().gamma(10**9) == 0
    dice = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 500, generator=dice)
    exact = sum(Fraction(u.item()) * Fraction(v.item()) for u, v in zip(a, b, strict=True))
    size = sum(abs(Fraction(u.item()) * Fraction(v.item())) for u, v in zip(a, b, strict=True))
    assert abs(Fraction((a @ b).item()) - exact) <= Fraction(rounding.gamma(500)) * size


def cancelling(method: Method, outward: bool) -> tuple[float, float]:
    """The lower bound in single precision, and the truth, of a network whose large terms cancel."""
    garden = Garden((40,), 5)
    weight = 1e4 * garden.normal(40, 40)
    garden.add("linear", weights={"weight": weight.float().double()})
    garden.add("relu")
    garden.add("linear", weights={"weight": (-weight.T).float().double()})
    garden.add("relu")
    garden.add("linear", weights={"weight": garden.normal(1, 40).float().double()})
    graph, model = garden.graph(), garden.model
    x = pixels(1, (40,), 3).float()
    truth = run(graph, model, x.double())
    with torch.no_grad():
        if outward:
            lower, _ = output_bounds(graph, model, x, x, method, dtype=torch.float32, steps=2)
            return lower.double().item(), truth.item()
        network = Network(graph, model, dtype=torch.float32)
        found = interval_walk(network, ball(x, ThreatModel("linf", 0)))
        rows = torch.ones(1, 1, 1)
        return (interval_least if method == "ibp" else linear_least)(found, rows).double().item(), truth.item()


@pytest.mark.parametrize("method", METHODS)
def test_cancellation_breaks_naive_bounds_and_not_ours(method: Method) -> None:
    naive, truth = cancelling(method, outward=False)
    assert naive != truth, "an example without rounding errors would show nothing"
    found, truth = cancelling(method, outward=True)
    assert found <= truth
    assert truth - found > abs(truth - naive) / 4


def test_some_naive_bound_is_wrong() -> None:
    assert any(bound > truth for bound, truth in (cancelling(m, outward=False) for m in ("ibp", "crown")))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**9),
    st.integers(0, 5),
    st.sampled_from(["0", "1/10000", "1/20"]),
    st.sampled_from(["linf", "l2"]),
)
def test_single_precision_never_claims_more_than_double(seed: int, depth: int, eps: str, norm: str) -> None:
    graph, model = grown(seed, depth)
    for parameter in [*model.parameters(), *model.buffers()]:
        parameter.data = parameter.data.float().double()
    x, y = pixels(3, graph.input.shape[1:], seed).float(), torch.arange(3)
    threat = ThreatModel(norm, eps)  # type: ignore[arg-type]
    with torch.no_grad():
        truth = run(graph, model, x.double())
        truth = truth.gather(1, y.unsqueeze(1)) - truth
        for method in METHODS:
            single = margin_bounds(graph, model, x, y, threat, method, dtype=torch.float32, steps=1)
            assert (single.double() <= truth + 1e-13 * (1 + truth.abs())).all(), method
            double = margin_bounds(graph, model, x, y, threat, method, dtype=torch.float64, steps=1)
            near = torch.allclose(single.double(), double, atol=2e-2, rtol=2e-2)
            assert near or method != "ibp", "sound, and still of use"


def test_what_overflows_is_no_bound() -> None:
    graph, model = dense(4, 5, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e30)
        x, y = pixels(2, (4,)).float(), torch.tensor([0, 1])
        found = margin_bounds(graph, model, x, y, ThreatModel("linf", "1/10"), "crown", dtype=torch.float32)
    assert not found.isnan().any()
    assert (found == -torch.inf).any()
    assert not (found == torch.inf).any()


def test_products_are_whole_inside_and_the_settings_come_back() -> None:
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        with torch.autocast("cpu", torch.bfloat16), whole_products(torch.device("cpu")):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")


def test_bounds_under_autocast_are_those_without() -> None:
    graph, model = dense(4, 5, 3)
    model.float()
    x, y = pixels(2, (4,)).float(), torch.tensor([0, 1])
    with torch.no_grad():
        expected = margin_bounds(graph, model, x, y, ThreatModel("linf", "1/10"), "crown")
        with torch.autocast("cpu", torch.bfloat16):
            found = margin_bounds(graph, model, x, y, ThreatModel("linf", "1/10"), "crown")
    assert torch.equal(found, expected)
