"""Single steps of every geometry against torch's own functions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_nets import MACHINE, computed, network_of, taps

from hedgerow.runtime import Affine, Conv, Pool

PLAIN = replace(MACHINE, lanes=4, plain=True)
WIDE = replace(MACHINE, lanes=16, sums=16, most=18, shared=4)
NARROW = replace(MACHINE, lanes=4, sums=4, most=6)
COUNT = 19  # more than a group on every machine, and a few alone

# kernel, stride, padding, dilation, groups, height and width
GEOMETRIES = [
    ((3, 3), (1, 1), (1, 1), (1, 1), 1, (6, 10)),
    ((3, 3), (2, 2), (1, 1), (1, 1), 1, (11, 19)),
    ((1, 1), (2, 2), (0, 0), (1, 1), 2, (11, 19)),
    ((5, 3), (1, 3), (2, 0), (1, 1), 1, (6, 30)),
    ((3, 3), (1, 1), (2, 2), (2, 2), 4, (6, 10)),
    ((2, 2), (2, 2), (3, 3), (1, 1), 1, (3, 3)),
    ((3, 3), (1, 1), (1, 1), (1, 1), 1, (2, 2)),
]


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sparse(*shape, seed=1, density=0.4):
    return draw(*shape, seed=seed) * (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density)


def conv_error(geometry, machine, *, outs=8, density=0.4):
    """Return how far a convolution with a residual and clipping is from torch's."""
    kernel, stride, padding, dilation, groups, size = geometry
    x, weight = draw(COUNT, 4, *size), sparse(outs, 4 // groups, *kernel, density=density)
    settings_ = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    bias, skip = draw(outs, seed=2), sparse(outs, 4 // groups, *kernel, seed=3)
    added = F.conv2d(x, skip, None, **settings_)
    expected = (F.conv2d(x, weight, bias, **settings_) + added).clamp(-0.5, 1.25)
    made = (outs, *expected.shape[2:])
    zero, step = np.zeros(outs, np.float32), {"kernel": kernel, **settings_}
    first = Conv("skip", 0, 1, taps(skip), zero, **step)
    second = Conv("conv", 0, 2, taps(weight), bias.numpy(), **step, residual=1, low=-0.5, high=1.25)
    found = computed(network_of((first, second), ((4, *size), made, made)), x, machine)
    assert found.shape == (COUNT, expected[0].numel())
    return float((found - expected.flatten(1)).abs().max())


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_convolution_of_this_machine_is_torchs(geometry):
    assert conv_error(geometry, MACHINE) < 1e-5


@pytest.mark.parametrize("machine", [WIDE, NARROW], ids=["16 floats", "4 floats"])
def test_the_width_of_vectors_changes_nothing(machine):
    assert conv_error(GEOMETRIES[0], machine) < 1e-5


@pytest.mark.parametrize("outs", [8, 10])
def test_channels_that_share_a_list_change_nothing(outs):
    assert conv_error(GEOMETRIES[0], MACHINE, outs=outs, density=1.0) < 1e-5


PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
GAPS = st.tuples(st.integers(0, 4), st.integers(0, 4))
SIZES = st.tuples(st.integers(7, 12), st.integers(7, 12))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.tuples(PAIRS, PAIRS, GAPS, PAIRS, st.sampled_from([1, 2, 4]), SIZES))
def test_any_convolution_without_vectors_is_torchs(geometry):
    assert conv_error(geometry, PLAIN) < 1e-5


@pytest.mark.parametrize("across", [1, 2, 3])  # a kernel is compiled for each
@settings(max_examples=12, deadline=None, derandomize=True)
@given(PAIRS, st.integers(1, 3), GAPS, PAIRS, st.integers(7, 12), st.integers(28, 33))
def test_any_pool_is_torchs(across, kernel, down, gap, dilation, height, width):
    stride, padding = (down, across), (min(gap[0], kernel[0] // 2), min(gap[1], kernel[1] // 2))
    x = draw(COUNT, 3, height, width)
    largest = F.max_pool2d(x, kernel, stride, padding, dilation)
    assert pool_error(x, largest, Pool("p", 0, 1, "max", kernel, stride, padding, dilation)) == 0
    for inside in (True, False):
        mean = F.avg_pool2d(x, kernel, stride, padding, count_include_pad=inside)
        divisor = kernel[0] * kernel[1] if inside else 0
        assert pool_error(x, mean, Pool("p", 0, 1, "mean", kernel, stride, padding, divisor=divisor)) < 1e-6


def pool_error(x, expected, step):
    shapes = (tuple(x.shape[1:]), tuple(expected.shape[1:]))
    found = computed(network_of((step,), shapes), x)
    return float((found - expected.flatten(1)).abs().max())


def test_what_no_convolution_takes_in_is_computed_alone():
    x, shape = draw(COUNT, 3, 5, 6), (3, 5, 6)
    scale, shift = draw(3, seed=1), draw(3, seed=2)
    first = Affine("first", 0, 1, scale.numpy(), shift.numpy(), low=0.0)
    ones = np.ones(3, np.float32)
    second = Affine("second", 0, 2, ones, 0 * ones, other=1, high=0.75)
    expected = (x + (scale.view(3, 1, 1) * x + shift.view(3, 1, 1)).clamp(min=0)).clamp(max=0.75)
    found = computed(network_of((first, second), (shape, shape, shape)), x)
    assert torch.allclose(found, expected.flatten(1), rtol=0, atol=1e-6)


def test_images_that_are_not_numbers_stay_so():
    x = draw(COUNT, 3, 4, 4)
    x[2, 1, 1, 1] = float("nan")
    step = Conv("c", 0, 1, taps(sparse(4, 3, 3, 3)), np.zeros(4, np.float32), (3, 3), padding=(1, 1), low=0.0)
    found = computed(network_of((step,), ((3, 4, 4), (4, 4, 4))), x)
    assert bool(found[2].isnan().any())
    assert not bool(torch.cat([found[:2], found[3:]]).isnan().any())
