"""The derivative of a network by its images, as a network itself: vector times Jacobian, by the non-zeros."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hedgerow.errors import ModelError
from hedgerow.runtime.network import Network
from hedgerow.runtime.steps import (
    Affine,
    Conv,
    Gate,
    Pool,
    Repeat,
    Shape,
    Spread,
    Step,
    Taps,
    Unflatten,
    Winners,
)


def pullback(network: Network) -> Network:
    """Return the network that computes `network` and then, from numbers `given` beside the image, the gradient.

    With `v`, one number per logit, given, its output is the gradient of `sum(v * logits)` by the pixels, of their
    shape. At a kink the derivative of clipping is 0, and that of a largest pixel goes to the first, as in torch.

    Raises `ModelError` that names the step whose derivative it does not know: a convolution padded by more than
    its kernel reaches, and a mean over the pixels inside of windows that overlap the border.
    """
    return _Pullback(network).made()


class _Pullback:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.shapes, self.steps = list(network.shapes), list(network.steps)
        self.gradient: dict[int, int] = {}  # the number of an activation's gradient, as far as it is summed up

    def new(self, shape: Shape) -> int:
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def add(self, step: Step) -> int:
        self.steps.append(step)
        return step.target

    def made(self) -> Network:
        network = self.network
        given = self.new(network.shapes[network.output])
        self.gradient[network.output] = given
        for step in reversed(network.steps):
            if step.target in self.gradient:
                self.back(step, self.gradient.pop(step.target))
        pixels = self.gradient.get(0)
        if pixels is None:
            raise ModelError("the logits do not depend on the image: there is nothing to differentiate")
        name, shape = "gradient of the pixels", network.shapes[0]
        zero = np.zeros(shape[0], np.float32)
        output = self.add(Affine(name, pixels, self.new(shape), network.scale, zero))
        return Network(
            tuple(self.shapes), tuple(self.steps), network.scale, network.shift, output=output, given=given
        )

    def back(self, step: Step, gradient: int) -> None:
        """Add what `gradient`, that of the step's result, makes of the activations that the step takes."""
        if isinstance(step, Conv | Affine) and (step.low > -math.inf or step.high < math.inf):
            shape = self.shapes[step.target]
            gradient = self.add(Gate(step.name, gradient, self.new(shape), step.target, step.low, step.high))
        if isinstance(step, Conv):
            if step.residual is not None:
                self.collect(step.name, step.residual, gradient)
            self.conv(step, gradient)
        elif isinstance(step, Affine):
            if step.other is not None:
                self.collect(step.name, step.other, gradient)
            shape, zero = self.shapes[step.source], np.zeros_like(step.shift)
            scaled = Affine(step.name, gradient, self.new(shape), step.scale, zero, self.gradient.get(step.source))
            self.gradient[step.source] = self.add(scaled)
        elif isinstance(step, Pool):
            self.pool(step, gradient)
        else:
            raise ModelError(f"step {step.name!r} is itself part of a derivative, of which there is none here")

    def collect(self, name: str, value: int, gradient: int) -> None:
        """Add a gradient to what there is of an activation's."""
        before = self.gradient.get(value)
        if before is not None:
            one = np.ones(self.shapes[value][0], np.float32)
            gradient = self.add(
                Affine(name, gradient, self.new(self.shapes[value]), one, np.zeros_like(one), before)
            )
        self.gradient[value] = gradient

    def conv(self, step: Conv, gradient: int) -> None:
        """Add the gradient of a convolution's input: the transposed convolution."""
        shape, taps = self.shapes[step.source], transposed(step, self.shapes[step.source][0])
        if step.kernel == shape[1:] != (1, 1) and self.shapes[step.target][1:] == (1, 1) and step.groups == 1:
            # A linear layer on a map: one list per pixel and channel, of which none is walked in vain.
            flat = self.new((math.prod(shape), 1, 1))
            self.add(Conv(step.name, gradient, flat, _by_pixel(step, shape), _zeros(math.prod(shape)), (1, 1)))
            self.collect(step.name, step.source, self.add(Unflatten(step.name, flat, self.new(shape))))
            return
        padding: list[int] = []
        sizes: list[int] = []
        for axis in range(2):
            reach = (step.kernel[axis] - 1) * step.dilation[axis]
            padding.append(reach - step.padding[axis])
            sizes.append(shape[1 + axis] + 2 * step.padding[axis] - reach)
        if min(padding) < 0:
            raise ModelError(
                f"step {step.name!r}: its padding {step.padding} is more than its kernel reaches, and the "
                "derivative of that is not known here; differentiate this network with torch"
            )
        if step.stride != (1, 1):
            wide = self.new((self.shapes[gradient][0], sizes[0], sizes[1]))
            gradient = self.add(Spread(step.name, gradient, wide, step.stride))
        target, before = self.new(shape), self.gradient.get(step.source)
        back = Conv(
            step.name,
            gradient,
            target,
            taps,
            _zeros(shape[0]),
            step.kernel,
            padding=(padding[0], padding[1]),
            dilation=step.dilation,
            groups=step.groups,
            residual=before,
        )
        self.gradient[step.source] = self.add(back)

    def pool(self, step: Pool, gradient: int) -> None:
        """Add the gradient of what a pool takes."""
        shape, size = self.shapes[step.source], self.shapes[step.target]
        whole = tuple(size[1 + axis] * step.kernel[axis] for axis in range(2)) == shape[1:]
        count = math.prod(step.kernel)
        if step.kind == "max":
            self.collect(step.name, step.source, self.add(Winners(step.name, gradient, self.new(shape), step)))
        elif step.stride == step.kernel and step.padding == (0, 0) and step.dilation == (1, 1) and whole:
            share = 1.0 / (step.divisor or count)
            repeated = Repeat(step.name, gradient, self.new(shape), step.kernel, share)
            self.collect(step.name, step.source, self.add(repeated))
        elif step.divisor or (step.padding == (0, 0) and _fits(step, shape, size)):
            self.conv(_mean(step, shape[0], 1.0 / (step.divisor or count)), gradient)
        else:
            raise ModelError(
                f"step {step.name!r}: the derivative of a mean over the pixels inside, of windows that overlap "
                "the border, is not known here; differentiate this network with torch"
            )


def transposed(step: Conv, inputs: int) -> Taps:
    """Return the taps of the convolution that takes a gradient of the outputs back to the `inputs` channels."""
    taps, (height, width) = step.taps, step.kernel
    column, x = np.divmod(taps.columns, width)
    within, y = np.divmod(column, height)
    into, out = inputs // step.groups, taps.outputs // step.groups
    group, row = np.divmod(taps.rows, out)
    channel = group * into + within
    columns = (row * height + height - 1 - y) * width + width - 1 - x
    return _sorted(channel, columns, taps.values, inputs)


def _by_pixel(step: Conv, shape: Shape) -> Taps:
    """Return the taps of a linear layer's transpose, one output for every number of the map it takes."""
    return _sorted(step.taps.columns, step.taps.rows, step.taps.values, math.prod(shape))


def _sorted(rows: np.ndarray, columns: np.ndarray, values: np.ndarray, outputs: int) -> Taps:
    order = np.lexsort((columns, rows))
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=outputs))]).astype(np.int64)
    return Taps(starts, columns[order].astype(np.int64), values[order])


def _fits(step: Pool, shape: Shape, size: Shape) -> bool:
    """Say whether every window of a pool without padding lies inside its map."""
    reach = [(size[1 + i] - 1) * step.stride[i] + (step.kernel[i] - 1) * step.dilation[i] for i in range(2)]
    return all(reach[i] < shape[1 + i] for i in range(2))


def _mean(step: Pool, channels: int, share: float) -> Conv:
    """Return the convolution, channel by channel, that a pool of means is."""
    count = math.prod(step.kernel)
    starts, columns = np.arange(channels + 1) * count, np.tile(np.arange(count), channels)
    taps = Taps(starts, columns, np.full(channels * count, share, np.float32))
    geometry: dict[str, Any] = {"stride": step.stride, "padding": step.padding, "dilation": step.dilation}
    return Conv(
        step.name, step.source, step.target, taps, _zeros(channels), step.kernel, groups=channels, **geometry
    )


def _zeros(count: int) -> np.ndarray:
    return np.zeros(count, np.float32)
