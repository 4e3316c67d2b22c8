"""Activations on intervals: nothing between the ends is outside the values, the lines, or the entries chosen."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hedgerow.bounds.curves import Bent, Clip, Curve, Lines
from hedgerow.bounds.maxima import Chosen, max_pool
from hedgerow.bounds.rounding import Rounding
from hedgerow.bounds.sigmoids import sigmoid, tanh
from hedgerow.tracing import Node
from hedgerow.tracing.run import RULES

KINDS: dict[str, tuple[Curve, Any]] = {
    "relu": (Bent(), torch.relu),
    "leaky relu": (Bent(0.2), lambda x: torch.maximum(x, 0.2 * x)),
    "identity": (Bent(1.0), lambda x: x),
    "falling leaky relu": (Bent(-0.4), lambda x: torch.maximum(x, -0.4 * x)),
    "abs": (Bent(-1.0), torch.abs),
    "relu6": (Clip(0.0, 6.0), lambda x: x.clamp(0, 6)),
    "hardtanh": (Clip(-1.0, 1.0), lambda x: x.clamp(-1, 1)),
    "clamp below": (Clip(-0.5, math.inf), lambda x: x.clamp_min(-0.5)),
    "clamp above": (Clip(-math.inf, 0.5), lambda x: x.clamp_max(0.5)),
    "sigmoid": (sigmoid(), torch.sigmoid),
    "tanh": (tanh(), torch.tanh),
}
ends = st.one_of(
    st.floats(-12, 12),
    st.floats(-0.01, 0.01),
    st.sampled_from([0.0, 6.0, -1.0, 1.0, 1e-13, -1e-13, 100.0, -100.0, 0.5, -0.5]),
)
intervals = st.lists(st.tuples(ends, ends).map(sorted), min_size=1, max_size=8)


def between(lower: Tensor, upper: Tensor) -> Tensor:
    """Many points of `[N]` intervals, `[points, N]`, both ends among them."""
    share = torch.linspace(0, 1, 201, dtype=lower.dtype).unsqueeze(1)
    points = torch.cat([lower + share * (upper - lower), lower.unsqueeze(0), upper.unsqueeze(0)])
    return torch.minimum(torch.maximum(points, lower), upper)


def gaps(lines: Lines, function: Any, points: Tensor) -> tuple[Tensor, Tensor]:
    """How far the function is above the lower line and below the upper one, `[points, N]`, in double precision."""
    zero = torch.zeros(())
    low, up, low_at, up_at = (
        (zero if t is None else t).double().squeeze() for t in (lines.low, lines.up, lines.low_at, lines.up_at)
    )
    x = points.double()
    return function(x) - (low * x + low_at), up * x + up_at - function(x)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(pairs=intervals)
def test_the_function_lies_between_its_lines_and_values(kind: str, pairs: list[list[float]]) -> None:
    curve, function = KINDS[kind]
    lower, upper = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    points = between(lower, upper)
    below, above = gaps(curve.relax(lower.unsqueeze(1), upper.unsqueeze(1)), function, points)
    assert min(below.min(), above.min()) > -1e-11 * (1 + points.abs().max())
    least, most = curve.interval(lower.clone(), upper.clone())
    values = function(points)
    assert (least <= values + 1e-15).all()
    assert (values <= most + 1e-15).all()
    assert torch.allclose(least, values.min(0).values, atol=0.07 * (upper - lower).max().item())


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(pairs=intervals)
def test_lines_in_single_precision_hold_in_real_arithmetic(kind: str, pairs: list[list[float]]) -> None:
    curve, function = KINDS[kind]
    lower, upper = torch.tensor(pairs, dtype=torch.float32).unbind(1)
    unit = Rounding.of(torch.float32).unit
    below, above = gaps(
        curve.relax(lower.unsqueeze(1), upper.unsqueeze(1), unit=unit), function, between(lower, upper)
    )
    assert min(below.min(), above.min()) >= -1e-15


@settings(deadline=None, max_examples=60)
@given(intervals, st.floats(-1, 1), st.floats(-3, 3))
def test_any_lower_slope_between_the_pieces_is_sound(pairs: list[list[float]], a: float, slope: float) -> None:
    curve = Bent(a)
    lower, upper = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    slopes = torch.full((len(lower), 1, 1), slope, dtype=torch.float64)
    for choice in (slopes, "parallel"):
        lines = curve.relax(lower.unsqueeze(1), upper.unsqueeze(1), slope=choice)  # type: ignore[arg-type]
        below, above = gaps(lines, lambda x: torch.maximum(x, a * x), between(lower, upper))
        assert min(below.min(), above.min()) > -1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_without_an_interval_both_lines_meet_the_value(kind: str) -> None:
    curve, function = KINDS[kind]
    x = torch.tensor([-7.0, -1.0, -0.3, 0.0, 0.2, 1.0, 3.0, 6.0, 8.0], dtype=torch.float64)
    below, above = gaps(curve.relax(x.unsqueeze(1), x.unsqueeze(1)), function, x)
    assert torch.allclose(below, torch.zeros_like(x), atol=1e-11)
    assert torch.allclose(above, torch.zeros_like(x), atol=1e-11)


def test_relu_lines_are_those_of_crown() -> None:
    lower, upper = (
        torch.tensor(v, dtype=torch.float64).view(-1, 1) for v in ([-1, -3, 1, -2, -2], [3, 1, 2, -1, 2])
    )
    lines = Bent().relax(lower, upper)
    assert lines.up.flatten().tolist() == pytest.approx([3 / 4, 1 / 4, 1, 0, 1 / 2])
    assert lines.up_at.flatten().tolist() == pytest.approx([3 / 4, 3 / 4, 0, 0, 1])
    assert lines.low.flatten().tolist() == pytest.approx([1, 0, 1, 0, 1])
    assert Bent().relax(lower, upper, slope="parallel").low.equal(lines.up)
    assert Bent().undecided(lower, upper).flatten().tolist() == [True, True, False, False, True]


@pytest.mark.parametrize("kind", ["sigmoid", "tanh"])
def test_s_shaped_lines_touch_the_function(kind: str) -> None:
    curve, function = KINDS[kind]
    lower = torch.tensor([-3.0, -1.0, 0.5, -2.0, -0.2], dtype=torch.float64)
    upper = torch.tensor([-1.0, 4.0, 2.0, 0.3, 0.1], dtype=torch.float64)
    below, above = gaps(curve.relax(lower.unsqueeze(1), upper.unsqueeze(1)), function, between(lower, upper))
    assert below.min(0).values.max() < 1e-4
    assert above.min(0).values.max() < 1e-4


POOLS = [
    {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1), "ceil": False},
    {"kernel": (3, 2), "stride": (1, 2), "padding": (1, 0), "dilation": (1, 1), "ceil": True},
    {"kernel": (2, 2), "stride": (2, 1), "padding": (1, 1), "dilation": (2, 1), "ceil": False},
]


@pytest.mark.parametrize("how", POOLS, ids=["apart", "overlapping", "dilated"])
@pytest.mark.parametrize("width", [0.0, 0.05, 0.4, 2.0])
def test_a_max_pool_lies_between_what_was_chosen(how: dict[str, Any], width: float) -> None:
    dice = torch.Generator().manual_seed(0)
    node = Node("n", "max_pool", (Node("x", "input", shape=(-1, 2, 5, 6)),), how)
    middle = torch.randn(3, 2, 5, 6, generator=dice, dtype=torch.float64)
    lower, upper = middle - width, middle + width
    pool = max_pool(node)
    assert pool is not None
    chosen = pool.relax(lower, upper)
    rows = torch.randn(3, 4, *chosen.index.shape[1:], generator=dice, dtype=torch.float64)
    back, constant = chosen.substitute(rows)
    for _ in range(40):
        x = lower + (upper - lower) * torch.rand(middle.shape, generator=dice, dtype=torch.float64).round()
        value = (rows * RULES["max_pool"](x, **how).unsqueeze(1)).flatten(2).sum(2)
        assert (constant + (back * x.unsqueeze(1)).flatten(2).sum(2) <= value + 1e-12).all()
    if width == 0:
        x = middle.unsqueeze(1)
        exact = (rows * RULES["max_pool"](middle, **how).unsqueeze(1)).flatten(2).sum(2)
        assert torch.allclose(constant + (back * x).flatten(2).sum(2), exact)


def test_the_entry_that_no_other_can_exceed_is_sure_where_windows_are_apart() -> None:
    node = Node(
        "n",
        "max_pool",
        (Node("x", "input", shape=(-1, 1, 4)),),
        {k: v[:1] if k != "ceil" else v for k, v in POOLS[0].items()},
    )
    pool = max_pool(node)
    assert pool is not None
    found = pool.relax(torch.tensor([[[1.0, 3.0, 0.0, 0.5]]]), torch.tensor([[[2.0, 4.0, 1.0, 0.6]]]))
    assert isinstance(found, Chosen)
    assert found.sure.tolist() == [[[True, False]]]
    assert found.index.tolist() == [[[1, 3]]]
    assert found.top.tolist() == [[[4.0, 1.0]]]
