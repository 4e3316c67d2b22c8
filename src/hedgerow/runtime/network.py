"""A network as the runtime takes it: few fused steps over activations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

import numpy as np

from hedgerow.errors import ModelError
from hedgerow.runtime.steps import (
    Affine,
    Conv,
    Floats,
    Gate,
    Pool,
    Repeat,
    Shape,
    Spread,
    Step,
    Unflatten,
    Winners,
    reads,
)


@dataclass(frozen=True, eq=False)
class Network:
    """Activations by number, with their `shapes`, and the steps that make them, in order.

    Number 0 is the image, each channel already multiplied by `scale` and moved by `shift`; `output` has the
    logits, shape `(classes, 1, 1)`. A network that is `given` an activation beside the image, of any shape, may
    give an `output` of any shape. Raises `ModelError`, naming the step, where the parts do not fit each other.
    """

    shapes: tuple[Shape, ...]
    steps: tuple[Step, ...]
    scale: Floats
    shift: Floats
    output: int
    given: int | None = None
    macs: int = field(init=False)

    def __post_init__(self) -> None:
        made = {0} if self.given is None else {0, self.given}
        for step in self.steps:
            _fits(step, self.shapes, made)
            made.add(step.target)
        flat = self.given is not None or self.shapes[self.output][1:] == (1, 1)
        if self.output not in made or not flat:
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
    for value in reads(step):
        _require(value in made, step, f"takes activation {value}, which no step before it makes")
    known = 0 < step.target < len(shapes) and step.target not in made
    _require(known, step, f"makes activation {step.target}, which is none or made before")
    if isinstance(step, Conv | Affine):
        same = all(shapes[added] == shapes[step.target] for added in reads(step)[1:])
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


def _gate(step: Gate, source: Shape, target: Shape) -> None:
    _require(source == target, step, "makes another shape than it takes")


def _spread(step: Spread, source: Shape, target: Shape) -> None:
    room = source[0] == target[0] and min(step.stride) > 0
    for axis in range(2):
        room = (
            room and 0 <= target[1 + axis] - ((source[1 + axis] - 1) * step.stride[axis] + 1) < step.stride[axis]
        )
    _require(room, step, f"makes {target} of {source}, not by its stride")


def _repeat(step: Repeat, source: Shape, target: Shape) -> None:
    sizes = (source[0], source[1] * step.size[0], source[2] * step.size[1])
    _require(sizes == target, step, f"makes {target} of {source}, not by its size")


def _unflatten(step: Unflatten, source: Shape, target: Shape) -> None:
    _require(source == (prod(target), 1, 1), step, f"makes {target} of {source}, another number of pixels")


def _winners(step: Winners, source: Shape, target: Shape) -> None:
    _require(step.pool.kind == "max", step, "is of a pool that takes no maxima")
    _pool(step.pool, target, source)


_CHECKS: dict[type, Callable[..., None]] = {
    Conv: _conv,
    Pool: _pool,
    Affine: _affine,
    Gate: _gate,
    Spread: _spread,
    Repeat: _repeat,
    Unflatten: _unflatten,
    Winners: _winners,
}
