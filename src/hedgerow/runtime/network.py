"""A network as the runtime takes it: few fused steps over activations, weights as lists of non-zeros."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hedgerow.errors import ModelError

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


Step = Conv | Pool | Affine


@dataclass(frozen=True, eq=False)
class Network:
    """Activations by number, with their `shapes`, and the steps that make them, in order.

    Number 0 is the image, each channel already multiplied by `scale` and moved by `shift`; `output` has the
    logits, shape `(classes, 1, 1)`. Raises `ModelError`, naming the step, where the parts do not fit each other.
    """

    shapes: tuple[Shape, ...]
    steps: tuple[Step, ...]
    scale: Floats
    shift: Floats
    output: int
    macs: int = field(init=False)

    def __post_init__(self) -> None:
        made = {0}
        for step in self.steps:
            _fits(step, self.shapes, made)
            made.add(step.target)
        if self.output not in made or self.shapes[self.output][1:] != (1, 1):
            raise ModelError("the network has no logits: its output is not one number per class")
        if len(self.scale) != self.shapes[0][0] or len(self.shift) != self.shapes[0][0]:
            raise ModelError(f"the images have {self.shapes[0][0]} channels, their scale or shift another number")
        convs = [step for step in self.steps if isinstance(step, Conv)]
        object.__setattr__(self, "macs", sum(len(c.taps.values) * prod(self.shapes[c.target][1:]) for c in convs))


def dense_macs(network: Network) -> int:
    """Return the multiplications of one image, were every weight there."""
    convs = [step for step in network.steps if isinstance(step, Conv)]
    return sum(row_length(c, network.shapes) * prod(network.shapes[c.target]) for c in convs)


def row_length(conv: Conv, shapes: tuple[Shape, ...]) -> int:
    """Return the weights of one output channel, zeros included."""
    return shapes[conv.source][0] // conv.groups * prod(conv.kernel)


def _fits(step: Step, shapes: tuple[Shape, ...], made: set[int]) -> None:
    more = (step.residual,) if isinstance(step, Conv) else (step.other,) if isinstance(step, Affine) else ()
    for value in (step.source, *(m for m in more if m is not None)):
        _require(value in made, step, f"takes activation {value}, which no step before it makes")
    known = 0 < step.target < len(shapes) and step.target not in made
    _require(known, step, f"makes activation {step.target}, which is none or made before")
    same = all(added is None or shapes[added] == shapes[step.target] for added in more)
    _require(same, step, "adds an activation of another shape")
    _CHECKS[type(step)](step, shapes[step.source], shapes[step.target])


def _require(condition: bool, step: Step, problem: str) -> None:
    if not condition:
        raise ModelError(f"step {step.name!r} {problem}")


def _windows(step: Conv | Pool) -> None:
    whole = min(*step.kernel, *step.stride, *step.dilation) > 0 and min(step.padding) >= 0
    _require(whole, step, "has a kernel, stride or dilation below 1, or a negative padding")


def _conv(step: Conv, source: Shape, target: Shape) -> None:
    taps, out = step.taps, target[0]
    _windows(step)
    for axis in range(2):
        reach = (step.kernel[axis] - 1) * step.dilation[axis] + 1
        size = (source[1 + axis] + 2 * step.padding[axis] - reach) // step.stride[axis] + 1
        _require(size == target[1 + axis], step, f"makes {target[1:]} of {source[1:]}, not by its geometry")
    divided = step.groups > 0 and source[0] % step.groups == 0 and out % step.groups == 0
    _require(divided, step, f"has {step.groups} groups for {source[0]} inputs and {out} outputs")
    _require(taps.outputs == out and len(step.bias) == out, step, f"has {out} outputs, its weights or bias others")
    whole = taps.starts[0] == 0 and taps.starts[-1] == len(taps.columns) == len(taps.values)
    _require(bool(whole and (np.diff(taps.starts) >= 0).all()), step, "has lists of weights that do not add up")
    limit = source[0] // step.groups * prod(step.kernel)
    inside = not len(taps.columns) or 0 <= taps.columns.min() <= taps.columns.max() < limit
    _require(bool(inside), step, f"has a weight outside its {limit} columns")
    _finite(step, taps.values, step.bias)


def _pool(step: Pool, source: Shape, target: Shape) -> None:
    _require(source[0] == target[0], step, "makes another number of channels than it takes")
    _windows(step)
    for axis in range(2):
        first, last = -step.padding[axis], (target[1 + axis] - 1) * step.stride[axis] - step.padding[axis]
        inside = last < source[1 + axis] and first + (step.kernel[axis] - 1) * step.dilation[axis] >= 0
        _require(inside, step, f"makes {target[1:]} of {source[1:]}: a window lies outside")


def _affine(step: Affine, source: Shape, target: Shape) -> None:
    _require(source == target, step, "makes another shape than it takes")
    _require(len(step.scale) == len(step.shift) == source[0], step, "has another number of scales than channels")
    _finite(step, step.scale, step.shift)


def _finite(step: Step, *numbers: Floats) -> None:
    _require(all(bool(np.isfinite(n).all()) for n in numbers), step, "has weights that are NaN or infinite")


_CHECKS: dict[type, Callable[..., None]] = {Conv: _conv, Pool: _pool, Affine: _affine}
