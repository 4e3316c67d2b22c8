"""What the kernels are told: machines, tiles, lists of records, places in the arena; against slow oracles."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_nets import MACHINE, lowered, taps, zoo

from hedgerow.errors import ModelError
from hedgerow.runtime import Conv, Network, Pool
from hedgerow.runtime.choice import fill
from hedgerow.runtime.layout import Layout, addend, gaps, places
from hedgerow.runtime.machine import from_features
from hedgerow.runtime.records import block_count, records
from hedgerow.runtime.tiling import chains, tiles


@pytest.mark.parametrize(
    ("features", "architecture", "lanes", "plain"),
    [
        ({"avx512f", "avx2", "fma"}, "x86_64", 16, False),
        ({"avx2", "fma"}, "x86_64", 8, False),
        ({"avx2"}, "x86_64", 4, True),
        (set(), "arm64", 4, False),
        (set(), "riscv64", 4, True),
    ],
)
def test_the_width_of_vectors_comes_from_the_processor(features, architecture, lanes, plain):
    machine = from_features("cpu", features, architecture=architecture, level1=1)
    assert (machine.lanes, machine.plain) == (lanes, plain)
    registers = 32 if lanes == 16 or architecture == "arm64" else 16
    assert machine.most < registers
    assert machine.shared * machine.outs <= machine.most
    assert "cpu" in machine.name


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([8, 12, 16]))
def test_tiles_cover_every_output_once(height, width, most):
    covered = np.zeros((height, width), int)
    for top, bottom, left, right, rows, cols in tiles(height, width, most=most):
        assert rows * cols <= most
        assert (bottom - top) % rows == (right - left) % cols == 0
        covered[top:bottom, left:right] += 1
    assert (covered == 1).all()


def test_small_tiles_run_several_sums_beside_each_other():
    assert [chains(vectors, 8) for vectors in (1, 2, 4, 8)] == [4, 4, 2, 1]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    outputs=st.integers(1, 9),
    outs=st.integers(1, 4),
    groups=st.sampled_from([1, 2]),
    blocks=st.integers(1, 4),
    rounds=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 99),
)
def test_records_hold_every_weight_once(outputs, outs, groups, blocks, rounds, seed):
    dice = np.random.default_rng(seed)
    blocks = 1 if groups > 1 else blocks
    outputs *= groups
    weight = dice.normal(size=(outputs, 4, 3, 2)) * (dice.random((outputs, 4, 3, 2)) < 0.3)
    conv = Conv("c", 0, 1, taps(weight), np.zeros(outputs, np.float32), (3, 2), groups=groups)
    outs = 1 if outputs % outs else outs
    found = records(
        conv,
        (4 * groups, 9, 9),
        lambda channel, y, x: channel * 100 + y * 10 + x,
        span=(0, outputs),
        outs=outs,
        blocks=blocks,
        chains=rounds,
    )
    seen = np.zeros((outputs, 4 * groups, 3, 2), np.float32)
    for block, group in product(range(found.blocks), range(found.groups)):
        first, last = found.rows[block, group : group + 2]
        assert (last - first) % rounds == 0
        for offset, *weights in found.lists[first:last]:
            place = (offset // 100, offset // 10 % 10, offset % 10)
            assert not any(weights) or place[0] // -(-4 * groups // blocks) == block
            seen[(slice(group * outs, (group + 1) * outs), *place)] += np.array(weights, np.int32).view(np.float32)
    expected = np.zeros_like(seen)
    for out in range(outputs):
        begin = out // (outputs // groups) * 4
        expected[out, begin : begin + 4] = weight[out]
    assert (seen == expected).all()


def test_blocks_keep_a_tiles_inputs_near_but_never_grow_tiny():
    conv = Conv("c", 0, 1, taps(np.ones((4, 64, 3, 3))), np.zeros(4, np.float32), (3, 3))
    assert block_count(conv, 64, floats=100, level1=64 * 400, outs=1) == 1
    assert block_count(conv, 64, floats=100, level1=32 * 400, outs=1) == 2
    few = Conv("c", 0, 1, taps(np.eye(4, 64)), np.zeros(4, np.float32), (1, 1))
    assert block_count(few, 64, floats=100, level1=400, outs=1) == 1


@pytest.mark.parametrize("name", ["resnet18", "mobilenet-v2"])
def test_no_activation_is_overwritten_while_it_is_needed(name):
    model, graph, _ = zoo(name)
    network = lowered(model, graph)
    gap = gaps(network)
    layouts = [Layout(shape, 8, gap[shape[1:]]) for shape in network.shapes]
    found, length = places(network, layouts)
    assert length < sum(layout.size for layout in layouts) / 2
    owner = np.full(length, -1)
    begin = found[0]
    owner[begin : begin + layouts[0].size] = 0
    for step in network.steps:
        for value in {step.source, addend(step)} - {None}:
            begin = found[value]
            assert (owner[begin : begin + layouts[value].size] == value).all(), step.name
        begin = found[step.target]
        owner[begin : begin + layouts[step.target].size] = step.target
    begin = found[network.output]
    assert (owner[begin : begin + layouts[network.output].size] == network.output).all()


def test_the_fill_of_shared_lists_is_the_share_of_weights_in_them():
    weight = np.zeros((8, 5), np.float32)
    conv = Conv("c", 0, 1, taps(weight), np.zeros(8, np.float32), (1, 1))
    assert fill(conv, 4) == 0
    weight[:, 0] = weight[0, 1] = 1
    conv = Conv("c", 0, 1, taps(weight), np.zeros(8, np.float32), (1, 1))
    assert fill(conv, 4) == 9 / 12


def test_taps_are_the_non_zeros_and_scaling_drops_what_becomes_zero():
    weight = np.array([[0, 2.0], [0, 0], [3.0, 4.0]])
    found = taps(weight)
    assert found.starts.tolist() == [0, 1, 1, 3]
    assert found.columns.tolist() == [1, 0, 1]
    scaled = found.scaled(np.array([2.0, 1.0, 0.0]))
    assert scaled.values.tolist() == [4.0]
    assert scaled.starts.tolist() == [0, 1, 1, 1]


SOUND = {
    "taps": taps(np.ones((2, 3, 3, 3))),
    "bias": np.zeros(2, np.float32),
    "kernel": (3, 3),
    "padding": (1, 1),
}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"kernel": (3, 2)}, "not by its geometry"),
        ({"stride": (0, 1)}, "below 1"),
        ({"padding": (-1, 1)}, "negative padding"),
        ({"groups": 2}, "2 groups for 3 inputs"),
        ({"bias": np.zeros(3, np.float32)}, "its weights or bias others"),
        ({"taps": taps(np.ones((2, 4, 3, 3)))}, "outside its 27 columns"),
        ({"taps": taps(np.full((2, 3, 3, 3), np.nan))}, "NaN or infinite"),
        ({"source": 1}, "takes activation 1, which no step before it makes"),
        ({"target": 0}, "makes activation 0, which is none or made before"),
        ({"residual": 0}, "adds an activation of another shape"),
    ],
)
def test_a_convolution_that_does_not_fit_is_named(change, problem):
    step = {"name": "stem", "source": 0, "target": 1, **SOUND, **change}
    one = np.ones(3, np.float32)
    with pytest.raises(ModelError, match=f"step 'stem' .*{problem}"):
        Network(((3, 4, 4), (2, 4, 4)), (Conv(**step),), one, one, 1)


def test_a_pool_outside_its_map_and_a_network_without_logits_are_refused():
    one, shapes = np.ones(3, np.float32), ((3, 4, 4), (3, 4, 4))
    with pytest.raises(ModelError, match=r"step 'p' makes .* a window lies outside"):
        Network(shapes, (Pool("p", 0, 1, "max", (2, 2), (2, 2)),), one, one, 1)
    with pytest.raises(ModelError, match="not one number per class"):
        Network(shapes, (Pool("p", 0, 1, "max", (1, 1), (1, 1)),), one, one, 1)
    with pytest.raises(ModelError, match="their scale or shift another number"):
        Network(((3, 1, 1),), (), np.ones(2, np.float32), one, 0)


def test_activations_of_one_network_are_small():
    model, graph, _ = zoo("resnet18")
    network = lowered(model, graph)
    layouts = [Layout(shape, MACHINE.lanes, gaps(network)[shape[1:]]) for shape in network.shapes]
    largest = max(prod(shape) for shape in network.shapes) * MACHINE.lanes
    assert places(network, layouts)[1] < 6 * largest
