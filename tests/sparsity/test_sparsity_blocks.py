"""N:M patterns and blocks against loops over the entries they are made of."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hedgerow.errors import ModelError
from hedgerow.registry import UnknownNameError
from hedgerow.sparsity import GRANULARITIES, Blocks, Budget, NofM, budget_conflict, parse_granularity
from hedgerow.sparsity.blocks import EXAMPLES, as_rows, from_rows

SHAPES = [(3, 8, 3, 3), (4, 5, 3, 3), (3, 3, 3, 3), (6, 1, 3, 3), (5, 16), (4, 7), (3, 6, 5), (2, 3, 2, 1, 2)]
PATTERNS = ["2:4", "1:4", "3:4", "1:2", "4:8", "2:7"]
SIZES = ["block-4x1", "block-1x16", "block-2x3", "block-16x1", "block-3x5"]
Place = tuple[int, ...]


def random_weight(shape: Place, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def columns(shape: Place) -> list[Place]:
    """The places of one row in their order: kernel positions outside, channels inside."""
    kernel = itertools.product(*(range(size) for size in shape[2:]))
    return [(channel, *position) for position in kernel for channel in range(shape[1])]


def pattern_groups(shape: Place, m: int) -> list[list[Place]]:
    groups = []
    for row in range(shape[0]):
        line = [(row, *place) for place in columns(shape)]
        groups += [line[i : i + m] for i in range(0, len(line), m)]
    return groups


def block_groups(shape: Place, height: int, width: int) -> list[list[Place]]:
    groups = []
    line = columns(shape)
    for top in range(0, shape[0], height):
        for left in range(0, len(line), width):
            rows = range(top, min(top + height, shape[0]))
            groups.append([(row, *place) for row in rows for place in line[left : left + width]])
    return groups


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_have_the_kernels_positions_outside_and_the_channels_inside(shape: Place) -> None:
    weight = random_weight(shape)
    expected = [[weight[(row, *place)].item() for place in columns(shape)] for row in range(shape[0])]
    assert as_rows(weight).tolist() == expected
    assert torch.equal(from_rows(as_rows(weight), weight.shape), weight)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_keeps_the_largest_of_every_group(name: str, shape: Place) -> None:
    pattern = parse_granularity(name)
    assert isinstance(pattern, NofM)
    weight = random_weight(shape).mul(4).round()  # with ties, of which the first go
    mask = pattern.mask(weight.abs(), pattern.fixed_keep(weight))
    norms, cut = pattern.norms(weight), pattern.cut(pattern.norms(weight), pattern.fixed_keep(weight))
    kept = 0
    for group in pattern_groups(shape, pattern.m):
        stay = math.ceil(len(group) * pattern.n / pattern.m)
        order = sorted(range(len(group)), key=lambda i: (weight[group[i]].abs().item(), i))
        live = order[len(group) - stay :]
        assert [i for i, place in enumerate(group) if mask[place]] == sorted(live)
        removed = [weight[place].abs().item() for i, place in enumerate(group) if i not in live]
        assert {cut[place].item() for place in group} == {max(removed, default=0.0)}
        kept += stay
    assert pattern.fixed_keep(weight) == kept == int(mask.sum())
    assert mask.is_contiguous()
    assert torch.equal(norms, weight.abs())


def test_2_4_keeps_exactly_half_where_4_divides_a_row_and_more_where_not() -> None:
    pattern = NofM("2:4", n=2, m=4)
    assert pattern.fixed_keep(torch.empty(5, 16)) == 40
    assert pattern.fixed_keep(torch.empty(16, 3, 3, 3)) == 16 * (6 * 2 + 2)  # 27 = 6 * 4 + 3; of 3 stay 2
    assert pattern.remark(torch.empty(5, 16)) is None
    assert (
        pattern.remark(torch.empty(16, 3, 3, 3))
        == "4 does not divide its 27 inputs: of the last 3 of every row 2 stay"
    )


def test_a_pattern_chooses_the_nearest_tensor_that_has_it() -> None:
    weight = random_weight((2, 6))
    pattern = NofM("2:4", n=2, m=4)
    mask = pattern.select(pattern.norms(weight), pattern.fixed_keep(weight))
    options = []
    for group, stay in zip(pattern_groups((2, 6), 4), (2, 1, 2, 1), strict=True):
        options.append(list(itertools.combinations(group, stay)))
    distances = [
        sum((weight[place] ** 2).item() for place in itertools.product(range(2), range(6)) if place not in kept)
        for kept in (set(itertools.chain(*choice)) for choice in itertools.product(*options))
    ]
    assert (weight * ~mask).square().sum().item() == pytest.approx(min(distances))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SIZES)
def test_blocks_are_rectangles_of_outputs_and_columns(name: str, shape: Place) -> None:
    blocks = parse_granularity(name)
    assert isinstance(blocks, Blocks)
    weight = random_weight(shape)
    groups = block_groups(shape, blocks.height, blocks.width)
    assert blocks.count(weight) == len(groups)
    scores, norms = blocks.scores(weight.abs()), blocks.norms(weight)
    assert scores.flatten().tolist() == pytest.approx([sum(weight[p].abs().item() for p in g) for g in groups])
    expected = [math.sqrt(sum(weight[p].item() ** 2 for p in g)) for g in groups]
    assert norms.flatten().tolist() == pytest.approx(expected)
    for keep in {1, (len(groups) + 1) // 2, len(groups)}:
        best = sorted(range(len(groups)), key=lambda i: -scores.flatten()[i].item())[:keep]
        mask = blocks.mask(weight.abs(), keep)
        for i, group in enumerate(groups):
            assert {bool(mask[place]) for place in group} == {i in best}
    assert mask.shape == weight.shape
    assert mask.is_contiguous()


def test_the_gradient_of_a_blocks_norm_is_its_direction_and_zero_at_zero() -> None:
    weight = torch.tensor([[3.0, 0.0], [4.0, 0.0]], requires_grad=True)
    Blocks("block-2x1", height=2).norms(weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == pytest.approx([0.6, 0.0, 0.8, 0.0])


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(1, 3), st.integers(1, 5), st.integers(1, 6))
def test_every_weight_is_in_one_block(outputs: int, inputs: int, kernel: int, height: int, width: int) -> None:
    if height * width == 1:
        return
    blocks = Blocks("block", height=height, width=width)
    weight = torch.ones(outputs, inputs, kernel)
    assert blocks.scores(weight).sum() == weight.numel()
    numbers = torch.arange(float(blocks.count(weight))).view(blocks.scores(weight).shape)
    counted = torch.bincount(blocks.expand(numbers, weight).flatten().long(), minlength=blocks.count(weight))
    assert counted.tolist() == blocks.scores(weight).flatten().tolist()


def test_edges_and_single_blocks_are_remarked() -> None:
    blocks = parse_granularity("block-4x2")
    assert blocks.remark(torch.empty(8, 6)) is None
    assert blocks.remark(torch.empty(10, 7)) == (
        "2 of 10 outputs and 1 of 7 inputs do not fill a block-4x2: blocks at the edge are smaller"
    )
    assert blocks.remark(torch.empty(3, 2)) == "one block of block-4x2 holds all 3x2 weights, so they stay whole"


def test_nan_is_refused_and_so_is_another_count() -> None:
    pattern = NofM("2:4", n=2, m=4)
    with pytest.raises(ValueError, match="NaN"):
        pattern.select(torch.tensor([[1.0, math.nan, 2.0, 3.0]]), 2)
    with pytest.raises(ValueError, match="2:4 keeps 2 of 4 weights, not 3"):
        pattern.select(torch.ones(1, 4), 3)
    with pytest.raises(TypeError, match="weight fixes no density"):
        GRANULARITIES["weight"].fixed_keep(torch.ones(1, 4))


def test_names_are_read() -> None:
    assert parse_granularity("2:4") == NofM("2:4", n=2, m=4)
    assert parse_granularity("block-16x1") == Blocks("block-16x1", height=16, width=1)
    assert parse_granularity("channel") is GRANULARITIES["channel"]
    assert [parse_granularity(name).family for name in EXAMPLES] == [
        "weight", "kernel", "channel", "filter", "block", "n:m",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("4:2", "'4:2' is not n:m with 1 <= n < m, such as 2:4"),
        ("0:4", "'0:4' is not n:m"),
        ("4:4", "'4:4' is not n:m"),
        ("block", "'block' is not block-HEIGHTxWIDTH, such as block-4x1"),
        ("block-4", "'block-4' is not block-HEIGHTxWIDTH"),
        ("block-4xx1", "'block-4xx1' is not block-HEIGHTxWIDTH"),
        ("block-1x1", "'block-1x1' is no block of outputs x inputs with at least two weights"),
        ("block-0x4", "'block-0x4' is no block"),
    ],
)
def test_impossible_sizes_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_granularity(name)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'channel'"):
        parse_granularity("chanel")


@pytest.mark.parametrize(
    ("name", "budget", "reason"),
    [
        ("2:4", Budget(0.9), "2:4 removes exactly 50 %; set sparsity 0.5"),
        ("2:4", Budget(0), "2:4 removes exactly 50 %; set sparsity 0.5"),
        ("1:4", Budget(0.5), "1:4 removes exactly 75 %; set sparsity 0.75"),
        ("1:3", Budget(0.5), "1:3 removes exactly 66.67 %; set sparsity 2/3"),
        (
            "2:4",
            Budget(0.5, "lamp"),
            "2:4 keeps one share of every layer, so lamp has no choice; set distribution uni",
        ),
    ],
)
def test_a_pattern_leaves_a_budget_nothing_to_say(name: str, budget: Budget, reason: str) -> None:
    pattern = parse_granularity(name)
    with pytest.raises(ModelError, match=reason):
        budget.keep({"w": torch.ones(4, 8)}, pattern)
    assert budget_conflict(pattern, budget.distribution, budget.sparsity).startswith(reason)
    assert budget_conflict(GRANULARITIES["kernel"], budget.distribution, budget.sparsity) is None


def test_a_pattern_goes_with_its_own_sparsity() -> None:
    weights = {"a": torch.ones(4, 8), "b": torch.ones(2, 6)}
    assert Budget("1/2").keep(weights, parse_granularity("2:4")) == {"a": 16, "b": 2 * (2 + 1)}
    assert Budget(Fraction(2, 3)).keep(weights, parse_granularity("1:3")) == {"a": 4 * (2 + 1), "b": 4}
    assert budget_conflict(parse_granularity("1:3"), "uniform") is None
