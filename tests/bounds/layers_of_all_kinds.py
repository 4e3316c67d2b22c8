"""One function for every kind of layer that bounds know: it adds one, with random settings, to a garden."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from gardens import Garden
from torch import nn

from hedgerow.tracing import Graph

Layer = Callable[[Garden], object]


def conv(g: Garden) -> None:
    channels, sizes = g.shape[0], g.shape[1:]
    groups = (1, math.gcd(channels, 2), channels)[g.number(0, 2)]
    kernel = tuple(g.number(1, min(3, size)) for size in sizes)
    padding = tuple(g.number(0, 1) for _ in kernel)
    fits = [2 * k - 1 <= s + 2 * p for k, s, p in zip(kernel, sizes, padding, strict=True)]
    out = groups * g.number(1, 2)
    weight = g.normal(out, channels // groups, *kernel, spread=(channels * math.prod(kernel)) ** -0.5)
    g.add(
        "conv",
        weights={"weight": weight} | ({"bias": g.normal(out, spread=0.3)} if g.number(0, 1) else {}),
        stride=tuple(g.number(1, 3) for _ in kernel),
        padding=padding,
        dilation=tuple(g.number(1, 2) if fit else 1 for fit in fits),
        groups=groups,
    )


def conv_transpose(g: Garden) -> None:
    dims = len(g.shape) - 1
    stride = tuple(g.number(1, 2) for _ in range(dims))
    g.add(
        "conv_transpose",
        weights={"weight": g.normal(g.shape[0], 2, *[2] * dims, spread=0.4), "bias": g.normal(2, spread=0.3)},
        stride=stride,
        padding=(0,) * dims,
        output_padding=tuple(g.number(0, s - 1) for s in stride),
        dilation=(1,) * dims,
        groups=1,
    )


def batch_norm(g: Garden) -> None:
    channels = g.shape[0]
    weights = {"running_mean": g.normal(channels, spread=0.3), "running_var": g.normal(channels).abs() + 0.3}
    if g.number(0, 1):
        weights |= {"weight": g.normal(channels), "bias": g.normal(channels, spread=0.3)}
    g.add("batch_norm", weights=weights, eps=1e-5)


def max_pool(g: Garden) -> None:
    kernel = tuple(g.number(1, min(3, size)) for size in g.shape[1:])
    g.add(
        "max_pool",
        kernel=kernel,
        stride=tuple(g.number(1, 3) for _ in kernel),
        padding=tuple(g.number(0, k // 2) for k in kernel),
        dilation=(1,) * len(kernel),
        ceil=bool(g.number(0, 1)),
    )


def adaptive_max_pool(g: Garden) -> None:
    g.add("adaptive_max_pool", size=tuple(size // 2 if size % 2 == 0 else size for size in g.shape[1:]))


def avg_pool(g: Garden) -> None:
    kernel = tuple(g.number(1, min(3, size)) for size in g.shape[1:])
    g.add(
        "avg_pool",
        kernel=kernel,
        stride=tuple(g.number(1, 2) for _ in kernel),
        padding=tuple(g.number(0, k // 2) for k in kernel),
        ceil=False,
        count_padding=bool(g.number(0, 1)),
        divisor=None,
    )


def adaptive_avg_pool(g: Garden) -> None:
    g.add("adaptive_avg_pool", size=tuple(g.number(1, size) for size in g.shape[1:]))


def reduction(g: Garden) -> None:
    g.add(("mean", "sum")[g.number(0, 1)], dims=(g.number(2, len(g.shape)),), keepdim=True)


def permuted(g: Garden) -> None:
    order = torch.randperm(len(g.shape), generator=g.dice).tolist()
    g.add("permute", dims=(0, *(1 + axis for axis in order)))


def reshaped(g: Garden) -> None:
    g.shaped("reshape", g.last, g.shape[0], math.prod(g.shape[1:]), *[1] * (len(g.shape) - 2))


def sliced(g: Garden) -> None:
    dim = g.number(1, len(g.shape))
    size = g.shape[dim - 1]
    g.add("slice", dim=dim, start=g.number(0, min(1, size - 1)), stop=size, step=g.number(1, 2))


def selected(g: Garden) -> None:
    whole = g.shape
    g.add("select", dim=1, index=g.number(0, whole[0] - 1))
    g.shaped("reshape", g.last, 1, *whole[1:])


def repeated(g: Garden) -> None:
    whole = g.shape
    first = g.add("slice", dim=1, start=0, stop=1, step=1)
    g.shaped("expand", first, 2, *whole[1:])


def padded(g: Garden) -> None:
    mode = ("constant", "constant", "replicate", "circular")[g.number(0, 3)]
    pads = ((0, 0), (0, 0), *((g.number(0, 1), g.number(0, 1)) for _ in g.shape[1:]))
    g.add("pad", pads=pads, mode=mode, value=0.5 * g.number(0, 1) if mode == "constant" else 0.0)


def scaled(g: Garden) -> None:
    last, by = g.last, g.normal(g.shape[0], *[1] * (len(g.shape) - 1)) + 0.1
    g.add(("mul", "div")[g.number(0, 1)], last, g.constant(by if g.number(0, 1) else -1.5))


def moved(g: Garden) -> None:
    last, by = g.last, g.normal(*g.shape, spread=0.3)
    constant = g.constant(by if g.number(0, 1) else 0.4)
    g.add(("add", "sub")[g.number(0, 1)], *((last, constant) if g.number(0, 1) else (constant, last)))


def multiplied(g: Garden) -> None:
    last = g.last
    g.add("matmul", last, g.constant(g.normal(g.shape[-1], 3, spread=0.5)))


def multiplied_from_the_left(g: Garden) -> None:
    last = g.last
    g.add("matmul", g.constant(g.normal(2, g.shape[-2], spread=0.5)), last)


def branched(g: Garden) -> None:
    last = g.last
    others = [node for node in g.nodes if node.op not in ("constant", "expand") and node.shape == last.shape]
    if others:  # a network of constants so far has nothing to branch from
        g.add(("add", "sub")[g.number(0, 1)], last, others[g.number(0, len(others) - 1)])


def broadcast(g: Garden) -> None:
    last = g.last
    mean = g.add("mean", dims=(2,), keepdim=True)
    g.add("sub", last, mean)


def concatenated(g: Garden) -> None:
    last = g.last
    if g.number(0, 1):
        wide = g.shaped("expand", g.constant(g.normal(1, *g.shape, spread=0.3)), *g.shape)
        g.add("cat", wide, last, dim=1)
    else:
        g.add("cat", last, last, dim=1)


STRAIGHT: dict[str, Layer] = {
    "conv": conv,
    "conv_transpose": conv_transpose,
    "linear": lambda g: g.linear(g.number(1, 4), bias=bool(g.number(0, 1))),
    "batch_norm": batch_norm,
    "avg_pool": avg_pool,
    "adaptive_avg_pool": adaptive_avg_pool,
    "reduction": reduction,
    "permuted": permuted,
    "reshaped": reshaped,
    "sliced": sliced,
    "selected": selected,
    "repeated": repeated,
    "padded": padded,
    "scaled": scaled,
    "moved": moved,
    "multiplied": multiplied,
    "multiplied_from_the_left": multiplied_from_the_left,
    "branched": branched,
    "broadcast": broadcast,
    "concatenated": concatenated,
}
"""Affine layers. All take and leave `[channels, length]` or `[channels, height, width]`."""

BENT: dict[str, Layer] = {
    "relu": lambda g: g.add("relu"),
    "leaky_relu": lambda g: g.add("leaky_relu", slope=(0.1, 0.7, -0.5)[g.number(0, 2)]),
    "abs": lambda g: g.add("abs"),
    "hardtanh": lambda g: g.add("hardtanh", low=-0.3 * g.number(0, 2), high=0.2 * g.number(1, 3)),
    "open_hardtanh": lambda g: g.add("hardtanh", low=-math.inf, high=0.3),
    "sigmoid": lambda g: g.add("sigmoid"),
    "tanh": lambda g: g.add("tanh"),
    "max_pool": max_pool,
    "adaptive_max_pool": adaptive_max_pool,
}


def grown(seed: int, depth: int, classes: int = 3) -> tuple[Graph, nn.Module]:
    """A network of `depth` random layers, about half of them followed by an activation, and a linear one."""
    g = Garden(((2, 5), (2, 4, 4))[seed % 2], seed)
    g.add("sub", g.last, g.constant(0.5))
    for _ in range(depth):
        if math.prod(g.shape) < 64:  # else only activations, so that it stays small
            list(STRAIGHT.values())[g.number(0, len(STRAIGHT) - 1)](g)
        if g.number(0, 3) == 0:
            last = g.last
            g.add("mul", last, g.constant(3.0))  # activations should see more than the neighbourhood of 0
        if g.number(0, 1) or math.prod(g.shape) >= 64:
            list(BENT.values())[g.number(0, len(BENT) - 1)](g)
    g.flat()
    g.linear(classes)
    return g.graph(), g.model
