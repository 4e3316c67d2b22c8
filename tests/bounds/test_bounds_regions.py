"""Regions: exactly the attacker's images, and the smallest value of a linear function over them."""

from __future__ import annotations

import pytest
import torch
from gardens import pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hedgerow.bounds import Region, ball, box
from hedgerow.errors import DataError
from hedgerow.threat import ThreatModel


def test_a_linf_ball_is_the_box_cut_to_the_pixel_range_exactly() -> None:
    x = torch.tensor([[0.0, 0.05, 0.5, 0.98, 1.0]], dtype=torch.float64)
    region = ball(x, ThreatModel("linf", "1/10"))
    assert region.is_box
    assert torch.equal(region.lower, (x - 0.1).clamp(0, 1))
    assert torch.equal(region.upper, (x + 0.1).clamp(0, 1))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_outward_ball_holds_what_the_threat_model_makes(norm: str, dtype: torch.dtype) -> None:
    threat = ThreatModel(norm, "8/255")  # type: ignore[arg-type]
    x = pixels(8, (3, 7)).to(dtype)
    region = ball(x, threat, outward=True)
    dice = torch.Generator().manual_seed(0)
    for step in range(200):
        far = x + 0.01 * step * torch.randn(x.shape, generator=dice, dtype=dtype)
        point = threat.project(far, x)
        assert (point >= region.lower).all()
        assert (point <= region.upper).all()
        if norm == "l2":
            assert ((point - x).double().flatten(1).norm(dim=1) <= region.eps).all()
    assert region.lower.min() == 0
    assert region.upper.max() == 1
    assert torch.allclose(region.lower, ball(x, threat).lower, atol=1e-6)


def exact_least(row: Tensor, region: Region) -> Tensor:
    """The minimum over ball and box by halving the multiplier, for one row and one example."""
    centre = region.centre[0]
    low, high = region.lower[0] - centre, region.upper[0] - centre
    small, large = 1e-15, 1e15
    for _ in range(300):
        middle = (small * large) ** 0.5
        step = torch.clamp(-row / middle, low, high)
        small, large = (middle, large) if step.norm() > region.eps else (small, middle)
    return (row * (centre + torch.clamp(-row / large, low, high))).sum()


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 10**6), st.sampled_from(["1/100", "1/5", "1", "5/2"]))
def test_the_least_value_over_ball_and_box(seed: int, eps: str) -> None:
    x = pixels(1, (24,), seed)
    region = ball(x, ThreatModel("l2", eps))
    rows = torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows[0, 0, ::2] = 0
    found = region.least(rows)[0]
    exact = torch.stack([exact_least(row, region) for row in rows[0]])
    assert (found <= exact + 1e-12).all(), "above the minimum it would be no bound"
    assert torch.allclose(found, exact, rtol=1e-2, atol=1e-6)
    alone = rows @ x[0] - region.eps * rows.norm(dim=2)
    assert (found >= alone[0] - 1e-12).all(), "never worse than the ball alone"
    assert (found >= box(region.lower, region.upper).least(rows)[0] - 1e-12).all(), "nor than the box alone"


def test_in_the_middle_of_the_range_it_is_the_ball_and_far_out_the_box() -> None:
    x = torch.full((1, 9), 0.5, dtype=torch.float64)
    rows = torch.randn(1, 3, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    small = ball(x, ThreatModel("l2", "1/10")).least(rows)
    assert torch.allclose(small, rows @ x[0] - 0.1 * rows.norm(dim=2), atol=1e-14)
    large = ball(x, ThreatModel("l2", 5)).least(rows)
    assert torch.allclose(large, rows.clamp_max(0).sum(2), atol=1e-12)


def test_rows_of_zeros_and_no_radius_are_no_problem() -> None:
    x = pixels(2, (4,))
    rows = torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)
    value = ball(x, ThreatModel("l2", "1/2")).least(rows)
    assert torch.equal(value, torch.zeros_like(value))
    (gradient,) = torch.autograd.grad(value.sum(), rows)
    assert gradient.isfinite().all()
    some = torch.randn(2, 3, 4, dtype=torch.float64)
    assert torch.allclose(ball(x, ThreatModel("l2", 0)).least(some), torch.einsum("nsd,nd->ns", some, x))


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        (torch.ones(2, 3), torch.zeros(2, 3), "the box is empty"),
        (torch.zeros(2, 3), torch.full((2, 3), torch.nan), "the box is empty or not a number"),
        (torch.zeros(2, 3), torch.zeros(2, 4), "floats \\[N, ...\\] of one shape"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64), "give floats"),
    ],
)
def test_a_box_that_is_none_is_refused(lower: Tensor, upper: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        box(lower, upper)
