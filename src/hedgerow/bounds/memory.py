"""Splitting work so that it fits: how many examples, and how many linear functions of each, at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from hedgerow.bounds.network import Network
from hedgerow.errors import CertificationError

# Tensors that live at once, in the size of the widest place of the network; seen by counting them.
_WALK, _BACK, _BALL = 12, 8, 6


@dataclass(frozen=True)
class Fit:
    """How much goes at once: `examples`, and of linear functions, `rows` over all of these examples together."""

    examples: int
    rows: int

    def parts(self, total: int) -> Iterator[slice]:
        """Yield the examples in parts."""
        return _cut(total, self.examples)

    def row_parts(self, examples: int, total: int) -> Iterator[slice]:
        """Yield `total` functions of each of `examples` examples in parts."""
        return _cut(total, max(1, self.rows // max(1, examples)))


def _cut(total: int, step: int) -> Iterator[slice]:
    yield from (slice(start, min(start + step, total)) for start in range(0, total, step))


EVERYTHING = Fit(2**62, 2**62)
"""No splitting: where gradients are wanted all of it is held anyway."""


def fit(network: Network, memory: int, *, count: int, ball: bool, linear: bool, optimise: bool) -> Fit:
    """Return what fits into `memory` bytes, beside the weights; always one example and one function at least.

    `count`: functions of the output that are wanted of each; `ball`: the region is no box; `linear`: rows are
    carried back to the images; `optimise`: through a graph that stays. Raises `CertificationError` for no memory.
    """
    if memory < 1:
        raise CertificationError(f"memory is {memory}; give the bytes that bounds may take, such as 2**30")
    size = {node: math.prod(node.shape[1:]) for node in network.order}
    item = network.like.element_size()
    widest = max(size.values())
    kept = sum(2 * size[network.parents(node)[0]] for node in network.curves)
    example = item * (_WALK * widest + 2 * kept + 2 * count * size[network.output])
    example += item * sum(size.values()) if linear else 0
    pair = max(size[node] + sum(size[p] for p in network.parents(node)) for node in network.order)
    row = item * (_BACK * pair // 2 + (_BALL * size[network.input] if ball else 0))
    if optimise:
        row += item * 6 * sum(size.values())
    row = row if linear else item * 6 * widest
    examples = max(1, memory // (2 * example))
    many = max(1, memory // (2 * row))
    return Fit(min(examples, many), many)
