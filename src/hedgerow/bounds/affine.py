"""Nodes that are affine, `A x + b`, in what depends on the images: A, |A| and A transposed, never unfolded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hedgerow.bounds.inner import transposed
from hedgerow.tracing import Node, Shape
from hedgerow.tracing.run import RULES


@dataclass(frozen=True)
class Affine:
    """An affine node; its functions take one tensor `[N, *in]` for every input that depends on the images.

    `value` is the operation itself; `magnitude(*radii)` is |A| r; `adjoint(rows)`, rows `[R, *out]`, is one tensor
    `[R, *in]` per input. `offset` is b, broadcastable to `[1, *out]`, None for 0; `bulk` bounds the magnitudes of
    what b is added up from, None for |b|. An entry of A x, or of A transposed times rows, is a sum of at most
    `terms` products. `squares(s)` is (A * A) s where that is known; with `diagonal` every entry of the result
    comes from one entry of the input, and no two from the same.
    """

    value: Callable[..., Tensor]
    magnitude: Callable[..., Tensor]
    adjoint: Callable[[Tensor], tuple[Tensor, ...]]
    offset: Tensor | None = None
    bulk: Tensor | None = None
    terms: int = 1
    squares: Callable[[Tensor], Tensor] | None = None
    diagonal: bool = False

    def wide(self, rank: int) -> Affine:
        """Return the same with offsets of that many axes, the batch axis first."""
        wide = {
            name: given.reshape((1,) * (rank - given.dim()) + given.shape)
            for name in ("offset", "bulk")
            if (given := getattr(self, name)) is not None
        }
        return replace(self, **wide)


@dataclass(frozen=True)
class Given:
    """What an affine node is made from: `operands` are its inputs' values, None where they depend on the images.

    `like` has the number format and the device of all bounds.
    """

    node: Node
    operands: tuple[Any, ...]
    weights: Mapping[str, Tensor]
    like: Tensor

    @property
    def shapes(self) -> list[Shape]:
        """The shapes, without the batch axis, of the inputs that depend on the images."""
        pairs = zip(self.node.inputs, self.operands, strict=True)
        return [each.shape[1:] for each, value in pairs if value is None]


def conv(given: Given) -> Affine:
    """Return a convolution of 1 to 3 dimensions."""
    node, weight, bias = given.node, given.weights["weight"], given.weights.get("bias")
    how, dims = dict(node.attributes), weight.dim() - 2
    return Affine(
        value=partial(RULES["conv"], weight=weight, bias=bias, **how),
        magnitude=_absolute(RULES["conv"], weight, how),
        adjoint=lambda rows: (_conv_back(rows, weight, given.shapes[0], how),),
        offset=None if bias is None else bias.view(1, -1, *[1] * dims),
        terms=math.prod(weight.shape[2:]) * max(weight.shape[1], weight.shape[0] // how["groups"]),
        squares=lambda s: RULES["conv"](s, weight=weight.square(), **how),
    )


def _conv_back(rows: Tensor, weight: Tensor, shape: Shape, how: Mapping[str, Any]) -> Tensor:
    """Return the transposed convolution of `rows` to the shape of the input."""
    dims, stride, padding, dilation = weight.dim() - 2, how["stride"], how["padding"], how["dilation"]
    if how["groups"] == 1 and weight.dtype is torch.float64:  # what autograd calls: faster here, slower elsewhere
        like = rows.new_empty(1).expand(len(rows), *shape)
        which, none = (True, False, False), [0] * dims
        back = torch.ops.aten.convolution_backward
        found: Tensor = back(rows, like, weight, None, stride, padding, dilation, False, none, 1, which)[0]
        return found
    sizes = zip(shape[1:], padding, dilation, weight.shape[2:], stride, strict=True)
    # What a stride leaves over at the far end gets no coefficient.
    left = tuple((size + 2 * p - d * (k - 1) - 1) % s for size, p, d, k, s in sizes)
    function = getattr(F, f"conv_transpose{dims}d")
    return function(rows, weight, output_padding=left, **how)  # type: ignore[no-any-return]


def conv_transpose(given: Given) -> Affine:
    """Return a transposed convolution."""
    weight, bias, how = given.weights["weight"], given.weights.get("bias"), dict(given.node.attributes)
    linear = partial(RULES["conv_transpose"], weight=weight, **how)
    return Affine(
        value=partial(linear, bias=bias),
        magnitude=_absolute(RULES["conv_transpose"], weight, how),
        adjoint=partial(transposed, linear, given.shapes),
        offset=None if bias is None else bias.view(1, -1, *[1] * (weight.dim() - 2)),
        terms=math.prod(weight.shape[2:]) * max(weight.shape[0] // how["groups"], weight.shape[1]),
    )


def linear(given: Given) -> Affine:
    """Return a linear layer along the last axis."""
    weight, bias = given.weights["weight"], given.weights.get("bias")
    return Affine(
        value=partial(F.linear, weight=weight, bias=bias),
        magnitude=_absolute(F.linear, weight, {}),
        adjoint=lambda rows: (rows @ weight,),
        offset=bias,
        terms=max(weight.shape),
        squares=lambda s: F.linear(s, weight.square()),
    )


def _absolute(rule: Callable[..., Tensor], weight: Tensor, how: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    made: list[Tensor] = []  # |W| is made when it is first needed, and once

    def magnitude(r: Tensor) -> Tensor:
        if not made:
            made.append(weight.abs())
        return rule(r, weight=made[0], **how)

    return magnitude


def batch_norm(given: Given) -> Affine:
    """Return a batch norm by the statistics among its weights; gradients go to them where they have a graph."""
    node, weights = given.node, given.weights
    mean, var, eps = weights["running_mean"], weights["running_var"], node.attributes["eps"]
    scale = (var + eps).rsqrt()
    scale = scale * weights["weight"] if "weight" in weights else scale
    bias = weights.get("bias", mean.new_zeros(()).expand_as(mean))
    wide = (1, -1, *[1] * (len(node.shape) - 2))
    factor, moved = scale.view(wide), (mean * scale).view(wide)
    offset = bias.view(wide) - moved

    def value(x: Tensor) -> Tensor:
        if mean.requires_grad or var.requires_grad:  # torch's own has no gradient to statistics
            return torch.addcmul(offset, x, factor)
        return F.batch_norm(x, mean, var, weights.get("weight"), weights.get("bias"), eps=eps)

    return Affine(
        value=value,
        magnitude=lambda r: r * factor.abs(),
        adjoint=lambda rows: (rows * factor,),
        offset=offset,
        bulk=bias.view(wide).abs() + moved.abs(),
        terms=8,
        squares=lambda s: s * factor.square(),
        diagonal=True,
    )


def matmul(given: Given) -> Affine:
    """Return the product with a constant matrix, on either side."""
    place = given.operands.index(None)
    by = given.operands[1 - place]

    def product(matrix: Tensor, x: Tensor) -> Tensor:
        return x @ matrix if place == 0 else matrix @ x

    return Affine(
        value=partial(product, by),
        magnitude=partial(product, by.abs()),
        adjoint=partial(transposed, partial(product, by), given.shapes),
        terms=math.prod(by.shape),
    )
