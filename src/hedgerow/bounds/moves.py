"""Affine nodes without weights: pooling, means, moving entries about, sums, and products with constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hedgerow.bounds.affine import Affine, Given
from hedgerow.bounds.inner import transposed
from hedgerow.tracing import Node
from hedgerow.tracing.run import RULES, SHAPED

Rule = Callable[..., Tensor]


def plain(given: Given) -> Affine:
    """Return pooling, a mean or sum, or moved entries: A has no negative entry, and there is no b."""
    node = given.node
    rule: Rule = partial(RULES[node.op], **node.attributes) if node.op in RULES else partial(_shaped, node)
    moves = node.op in ("reshape", "permute", "slice", "select")
    return Affine(
        value=rule,
        magnitude=rule,
        adjoint=_moved_back(node) or partial(transposed, rule, given.shapes),
        terms=_averaged(node),
        squares=rule if moves else None,
        diagonal=moves,
    )


def _shaped(node: Node, x: Tensor) -> Tensor:
    return SHAPED[node.op](x, torch.Size([len(x), *node.shape[1:]]))


def _moved_back(node: Node) -> Callable[[Tensor], tuple[Tensor, ...]] | None:
    if node.op == "reshape":
        return lambda rows: (rows.reshape(len(rows), *node.inputs[0].shape[1:]),)
    if node.op == "permute":
        dims = node.attributes["dims"]
        back = [dims.index(axis) for axis in range(len(dims))]
        return lambda rows: (rows.permute(back),)
    return None


def _averaged(node: Node) -> int:
    """Return how many entries one is made of, or how many copies there are of one, at most."""
    before, after = node.inputs[0].shape[1:], node.shape[1:]
    if node.op == "avg_pool":
        return math.prod(node.attributes["kernel"])
    if node.op == "adaptive_avg_pool":
        return math.prod(-(-a // b) + 1 for a, b in zip(before, after, strict=True))
    return max(1, math.prod(before) // math.prod(after), math.prod(after) // math.prod(before))


def pad(given: Given) -> Affine:
    """Return padding in any mode."""
    how = given.node.attributes
    constant = how["mode"] == "constant"
    linear = partial(RULES["pad"], **{**how, "value": 0.0})
    rule = partial(RULES["pad"], **how)
    return Affine(
        value=rule,
        magnitude=linear,
        adjoint=partial(transposed, linear, given.shapes),
        offset=rule(given.like.new_zeros(1, *given.shapes[0])) if constant and how["value"] else None,
        terms=1 if constant else math.prod(1 + sum(pair) for pair in how["pads"]),
        squares=linear if constant else None,
        diagonal=constant,
    )


def joined(given: Given) -> Affine:
    """Return a sum or a difference, of two inputs or of one and a constant."""
    rule, same = RULES[given.node.op], [shape == given.node.shape[1:] for shape in given.shapes]
    values, zeros = _constants(given)
    signs = [1, -1 if given.node.op == "sub" else 1]
    mine = [sign for sign, value in zip(signs, values, strict=True) if value is None]
    alone = len(mine) == 1
    linear = partial(_filled, rule, zeros)
    back = partial(transposed, linear, given.shapes)
    return Affine(
        value=partial(_filled, rule, values),
        magnitude=partial(_filled, RULES["add"], zeros),
        adjoint=(lambda rows: tuple(rows if sign > 0 else -rows for sign in mine)) if all(same) else back,
        offset=_filled(rule, values, given.like.new_zeros(1, *given.shapes[0])) if alone else None,
        terms=2 if all(same) else math.prod(given.node.shape[1:]),
        squares=(lambda s: s) if alone and same[0] else None,
        diagonal=alone and same[0],
    )


def cat(given: Given) -> Affine:
    """Return a concatenation, of constants too."""
    values, zeros = _constants(given)
    rule = partial(_cat, given.node.attributes["dim"])
    linear = partial(_filled, rule, zeros)
    constant = any(value is not None for value in values)
    nothing = [given.like.new_zeros(1, *shape) for shape in given.shapes]
    return Affine(
        value=partial(_filled, rule, values),
        magnitude=linear,
        adjoint=partial(transposed, linear, given.shapes),
        offset=_filled(rule, values, *nothing) if constant else None,
    )


def _cat(dim: int, *parts: Tensor) -> Tensor:
    batch = max(map(len, parts))
    return torch.cat([part.expand(batch, *part.shape[1:]) for part in parts], dim)


def _constants(given: Given) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Return the constant operands as tensors, None in the places of the others, and the same as zeros."""
    values = [v if v is None or isinstance(v, Tensor) else given.like.new_tensor(v) for v in given.operands]
    return values, [None if v is None else torch.zeros_like(v) for v in values]


def _filled(rule: Rule, values: Sequence[Tensor | None], *xs: Tensor) -> Tensor:
    following = iter(xs)
    return rule(*(next(following) if value is None else value for value in values))


def scaled(given: Given) -> Affine:
    """Return a product with a constant, or a quotient by one."""
    rule, place = RULES[given.node.op], given.operands.index(None)
    by: Any = given.operands[1 - place]
    size, shape, made = abs(by), given.shapes[0], given.node.shape[1:]

    def value(x: Tensor) -> Tensor:
        return rule(x, by)

    alone = shape == made
    return Affine(
        value=value,
        magnitude=lambda r: rule(r, size),
        adjoint=(lambda rows: (rule(rows, by),)) if alone else partial(transposed, value, [shape]),
        terms=2 if alone else 2 + math.prod(made),
        squares=(lambda s: rule(s, size**2)) if alone else None,
        diagonal=alone,
    )
