"""The gradient of the pixels from the non-zeros alone, against torch's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from runtime_nets import MACHINE, error, images, lowered, network_of, pruned, taps, zoo

from hedgerow.errors import DataError, ModelError
from hedgerow.runtime import Affine, Conv, Derivative, Pool, SparseModel, pullback
from hedgerow.runtime.steps import Gate

PLAIN = replace(MACHINE, lanes=4, plain=True)
WIDE = replace(MACHINE, lanes=16, sums=16, most=18, shared=4)
COUNT = 19  # groups on every machine, the last one incomplete
# kernel, stride, padding, dilation, groups, height and width
GEOMETRIES = [
    ((3, 3), (1, 1), (1, 1), (1, 1), 1, (6, 10)),
    ((3, 3), (2, 2), (1, 1), (1, 1), 1, (11, 19)),
    ((3, 3), (2, 2), (1, 1), (1, 1), 1, (12, 20)),
    ((1, 1), (2, 2), (0, 0), (1, 1), 2, (11, 18)),
    ((5, 3), (1, 3), (2, 0), (1, 1), 1, (6, 31)),
    ((3, 3), (1, 1), (2, 2), (2, 2), 4, (6, 10)),
    ((4, 4), (2, 2), (1, 1), (1, 1), 1, (8, 8)),
    ((2, 3), (1, 1), (0, 1), (1, 1), 1, (2, 3)),
]


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradient_error(steps, shapes, expected, machine):
    """Return how far the gradient of random numbers times the last map is from that of the function `expected`."""
    x = draw(COUNT, *shapes[0], seed=7).requires_grad_()
    made = expected(x).flatten(1)
    v = draw(*made.shape, seed=8)
    (wanted,) = torch.autograd.grad((made * v).sum(), x)
    found = Derivative(network_of(steps, shapes), machine=machine)(x.detach(), v)
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize(
    ("geometry", "machine"),
    [*((g, MACHINE) for g in GEOMETRIES), (GEOMETRIES[2], WIDE), (GEOMETRIES[1], PLAIN), (GEOMETRIES[3], PLAIN)],
)
def test_of_a_clipped_convolution_with_a_residual(geometry, machine):
    kernel, stride, padding, dilation, groups, size = geometry
    weight, skip = (
        draw(8, 4 // groups, *kernel, seed=s) * (draw(8, 4 // groups, *kernel, seed=s + 2) > 0) for s in (1, 2)
    )
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}

    def expected(x):
        return F.hardtanh(F.conv2d(x, weight, None, **how) + F.conv2d(x, skip, None, **how), -0.5, 1.25)

    made, zero = (8, *expected(torch.zeros(1, 4, *size)).shape[2:]), np.zeros(8, np.float32)
    first = Conv("skip", 0, 1, taps(skip), zero, kernel, **how)
    second = Conv("conv", 0, 2, taps(weight), zero, kernel, **how, residual=1, low=-0.5, high=1.25)
    assert gradient_error((first, second), ((4, *size), made, made), expected, machine) < 1e-5


POOLS = [
    ((2, 2), (2, 2), (0, 0), (8, 10)),
    ((3, 3), (2, 2), (1, 1), (9, 10)),
    ((2, 3), (1, 2), (0, 1), (5, 9)),
    ((4, 5), (4, 5), (0, 0), (4, 5)),
    ((2, 2), (2, 2), (0, 0), (9, 9)),  # what is left at the end takes no part
]


@pytest.mark.parametrize("kind", ["max", "mean"])
@pytest.mark.parametrize("geometry", POOLS)
def test_of_a_pool_between_convolutions(geometry, kind):
    kernel, stride, padding, size = geometry
    weight = draw(4, 4, 1, 1, seed=3)

    def expected(x):
        pooling = F.max_pool2d if kind == "max" else F.avg_pool2d
        return pooling(F.relu(F.conv2d(x, weight)), kernel, stride, padding)

    made = (4, *expected(torch.zeros(1, 4, *size)).shape[2:])
    zero = np.zeros(4, np.float32)
    conv = Conv("conv", 0, 1, taps(weight), zero, (1, 1), low=0.0)
    divisor = kernel[0] * kernel[1] if padding != (0, 0) else 0
    pool = Pool("pool", 1, 2, kind, kernel, stride, padding, divisor=divisor)
    assert gradient_error((conv, pool), ((4, *size), (4, *size), made), expected, MACHINE) < 1e-5


def test_the_first_of_equal_pixels_gets_the_gradient():
    pool = Pool("pool", 0, 1, "max", (2, 2), (2, 2))
    x, v = torch.zeros(2, 1, 2, 2), torch.tensor([[3.0], [-1.0]])
    x[1, 0, 1, 0] = 1.0
    found = Derivative(network_of((pool,), ((1, 2, 2), (1, 1, 1))))(x, v)
    assert found.flatten(1).tolist() == [[3, 0, 0, 0], [0, 0, -1, 0]]


def test_of_a_value_that_is_used_three_times():
    scale, shift = (np.array(numbers, np.float32) for numbers in ([2.0, -1.0], [0.25, 0.5]))
    shape = (2, 3, 3)

    def expected(x):
        s, b = (torch.from_numpy(n)[:, None, None] for n in (scale, shift))
        once = (x * s + b).relu()
        twice = once * s + b + once
        return twice * s + b + once

    steps = (
        Affine("one", 0, 1, scale, shift, low=0.0),
        Affine("two", 1, 2, scale, shift, other=1),
        Affine("three", 2, 3, scale, shift, other=1),
    )
    assert gradient_error(steps, (shape,) * 4, expected, MACHINE) < 1e-6


NETWORKS = ["cnn-small", "cnn-large", "resnet18", "resnet20", "vgg16-bn", "preact-resnet18", "mobilenet-v2"]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_pruned_network_has_pytorchs_gradients(name):
    model, graph, size = zoo(name)
    sparse = pruned(model, 0.1)
    fast = SparseModel(sparse, lowered(sparse, graph))
    found, expected = [], []
    x = images(MACHINE.lanes + 3, size)
    for network, kept in ((fast, found), (sparse, expected)):
        pixels = x.clone().requires_grad_()
        logits = network(pixels)
        loss = F.cross_entropy(logits, torch.arange(len(x)) % 7)
        kept += [logits.detach(), torch.autograd.grad(loss, pixels)[0]]
    assert error(found[0], expected[0]) < 2e-5
    assert float(expected[1].abs().amax((1, 2, 3)).min()) > 0
    # By images: where an input lies at a kink, in float32, one gradient is as right as the other.
    apart = (found[1] - expected[1]).abs().amax((1, 2, 3)) / expected[1].abs().amax((1, 2, 3))
    assert int((apart > 1e-4).sum()) <= 1, apart


def test_threads_change_nothing_and_without_a_gradient_there_are_logits_alone():
    model, graph, size = zoo("resnet20")
    network = lowered(pruned(model, 0.05), graph)
    x, v = images(3 * MACHINE.lanes + 1, size), draw(3 * MACHINE.lanes + 1, 7)
    assert torch.equal(Derivative(network)(x, v), Derivative(network, threads=2)(x, v))
    sparse = SparseModel(model, network)
    assert not sparse(x).requires_grad
    assert torch.equal(sparse(x), sparse.program(x))
    assert [p.shape for p in sparse.parameters()] == [p.shape for p in model.parameters()]


def test_bad_tensors_are_refused():
    model, graph, size = zoo("resnet20")
    derivative = Derivative(lowered(pruned(model, 0.05), graph))
    x, v = images(2, size), torch.zeros(2, 7)
    with pytest.raises(DataError, match=r"images: \[2, 3, 8, 8\].*takes float32 \[N, 3, 16, 16\]"):
        derivative(x[..., :8, :8], v)
    with pytest.raises(DataError, match=r"v: \[2, 3\].*\[N, 7\]"):
        derivative(x, v[:, :3])
    with pytest.raises(DataError, match=r"v: .*float64"):
        derivative(x, v.double())
    with pytest.raises(DataError, match="2 images and 1 rows"):
        derivative(x, v[:1])


def test_steps_without_a_known_derivative_are_named():
    zero, weight = np.zeros(2, np.float32), draw(2, 2, 2, 2)
    shapes = ((2, 3, 3), (2, 8, 8))
    conv = Conv("wide", 0, 1, taps(weight), zero, (2, 2), padding=(3, 3))
    with pytest.raises(ModelError, match=r"'wide'.*padding \(3, 3\).*with torch"):
        pullback(network_of((conv,), shapes))
    pool = Pool("border", 0, 1, "mean", (3, 3), (2, 2), (1, 1))
    with pytest.raises(ModelError, match=r"'border'.*overlap the border"):
        pullback(network_of((pool,), ((2, 5, 5), (2, 3, 3))))
    gate = Gate("twice", 0, 1, 0)
    with pytest.raises(ModelError, match="'twice' is itself part of a derivative"):
        pullback(network_of((gate,), ((2, 3, 3), (2, 3, 3))))
