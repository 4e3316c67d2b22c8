"""The steps of a network as the runtime takes them, weights as lists of non-zeros."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Pair = tuple[int, int]
Shape = tuple[int, int, int]
"""Channels, height and width of an activation; what a linear layer makes is `(features, 1, 1)`."""


@dataclass(frozen=True, eq=False)
class Taps:
    """The non-zero weights of a layer, output channel by output channel, without any zero stored.

    Those of output `o` are `columns[starts[o]:starts[o + 1]]`, ascending, with `values` (float32) beside them. A
    column is `(input * kernel_height + y) * kernel_width + x`, inputs counted within the group.
    """

    starts: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: Floats

    @staticmethod
    def of(shape: tuple[int, ...], positions: NDArray[np.int64], values: Floats) -> Taps:
        """Return the taps of a weight `[out, ...]` from its non-zeros, `positions` ascending in its flat order."""
        row = prod(shape[1:])
        starts = np.searchsorted(positions, row * np.arange(shape[0] + 1, dtype=np.int64))
        return Taps(starts.astype(np.int64), positions % row, values)

    @property
    def outputs(self) -> int:
        """Output channels."""
        return len(self.starts) - 1

    @property
    def rows(self) -> NDArray[np.int64]:
        """The output channel of each entry."""
        return np.repeat(np.arange(self.outputs), np.diff(self.starts))

    def scaled(self, scale: NDArray[Any]) -> Taps:
        """Return the taps with each output channel multiplied by its `scale`; what becomes 0 is dropped."""
        rows = self.rows
        values = (self.values * np.asarray(scale, np.float64)[rows]).astype(np.float32)
        kept = values != 0
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows[kept], minlength=self.outputs))])
        return Taps(starts.astype(np.int64), self.columns[kept], values[kept])


@dataclass(frozen=True, eq=False)
class Conv:
    """A convolution, normalisation folded in, then `+ residual`, then clipping to `[low, high]` (ReLU: 0, inf).

    A linear layer is one whose kernel covers the whole map. `source`, `target` and `residual` number activations.
    """

    name: str
    source: int
    target: int
    taps: Taps
    bias: Floats
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    residual: int | None = None
    low: float = -inf
    high: float = inf


@dataclass(frozen=True, eq=False)
class Pool:
    """The largest or the mean pixel of each window; of a mean, `divisor` 0 counts the pixels inside the map."""

    name: str
    source: int
    target: int
    kind: Literal["max", "mean"]
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    divisor: int = 0


@dataclass(frozen=True, eq=False)
class Affine:
    """`scale * source + shift` by channel, `+ other`, then clipping: what no convolution could take in."""

    name: str
    source: int
    target: int
    scale: Floats
    shift: Floats
    other: int | None = None
    low: float = -inf
    high: float = inf


@dataclass(frozen=True, eq=False)
class Gate:
    """The `source` where `low < gate < high`, else 0: the derivative of clipping, whose result is `gate`."""

    name: str
    source: int
    target: int
    gate: int
    low: float = -inf
    high: float = inf


@dataclass(frozen=True, eq=False)
class Spread:
    """The `source` with `stride - 1` zeros between its pixels, and after the last as many as there is room."""

    name: str
    source: int
    target: int
    stride: Pair


@dataclass(frozen=True, eq=False)
class Repeat:
    """Every pixel of the `source`, times `scale`, in a block of `size` pixels of the target."""

    name: str
    source: int
    target: int
    size: Pair
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Unflatten:
    """The channels of a `source` of one pixel as the channels, rows and columns of the target."""

    name: str
    source: int
    target: int


@dataclass(frozen=True, eq=False)
class Winners:
    """The derivative of `pool`, of maxima: a pixel of the `source` goes to the first largest of its window.

    What comes from several windows is added. `pool.source` is what the pool took.
    """

    name: str
    source: int
    target: int
    pool: Pool


Step = Conv | Pool | Affine | Gate | Spread | Repeat | Unflatten | Winners


def reads(step: Step) -> tuple[int, ...]:
    """Return the activations that a step takes, its source first."""
    more: tuple[int | None, ...] = ()
    if isinstance(step, Conv):
        more = (step.residual,)
    elif isinstance(step, Affine):
        more = (step.other,)
    elif isinstance(step, Gate):
        more = (step.gate,)
    elif isinstance(step, Winners):
        more = (step.pool.source,)
    return step.source, *(value for value in more if value is not None)
