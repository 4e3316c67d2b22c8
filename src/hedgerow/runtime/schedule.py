"""The steps of one kind of run, as numbers for compiled code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow.runtime import passes
from hedgerow.runtime import pullback_passes as backward
from hedgerow.runtime.layout import MARGIN, Layout, addend, places
from hedgerow.runtime.memory import Store
from hedgerow.runtime.network import Network
from hedgerow.runtime.steps import Affine, Floats, Gate, Pair, Pool, Repeat, Spread, Step, Unflatten, Winners

BYTES = 4
MOST_OUTS = 16


class Schedule:
    """Compiled steps in order, each with its words; activations are places in an arena of `floats`.

    `lanes` images are computed at a time. The arrays whose addresses are among the words live as long as this.
    `owners` has the network's step for every compiled one, -1 for taking images in and the last for giving logits.
    """

    def __init__(self, network: Network, layouts: list[Layout], lanes: int) -> None:
        self.network, self.layouts, self.lanes = network, layouts, lanes
        self.places, self._length = places(network, layouts)
        self.owners: list[int] = []
        self._owner, self._scratch = -1, 0
        self._steps: list[tuple[int, int]] = []
        self._store = Store()

    def table(self) -> NDArray[np.int64]:
        """Return the addresses of the steps and of their words, `[steps, 2]`."""
        return np.array(self._steps, np.int64).reshape(-1, 2)

    @property
    def floats(self) -> int:
        """Floats of a thread's arena."""
        return self._length + self._scratch + MARGIN

    def keep(self, array: NDArray[Any]) -> int:
        """Return the address of a copy of `array` that will not go away."""
        return self._store.put(array)

    def address(self, value: int) -> int:
        """Return where the first pixel of an activation is, in bytes from the arena's begin."""
        return BYTES * (self.places[value] + self.layouts[value].origin)

    def room(self, floats: int) -> int:
        """Return a place for `floats` that the next step alone needs, in bytes."""
        self._scratch = max(self._scratch, floats)
        return BYTES * self._length

    def bounds(self, low: float, high: float) -> int:
        """Return the address of these bounds, of none, and of zeros in place of a bias."""
        return self.keep(np.array([low, high, -np.inf, np.inf, *[0.0] * MOST_OUTS], np.float32))

    def add(self, kernel: Any, names: tuple[str, ...], **words: int) -> None:
        """Append a compiled step; `words` are exactly those that it names."""
        if set(words) != set(names):
            raise TypeError(f"words {sorted(set(words) ^ set(names))} are missing or unknown")
        self._steps.append((int(kernel.address), self.keep(np.array([words[name] for name in names], np.int64))))
        self.owners.append(self._owner)

    def steps(self) -> Iterator[tuple[int, Step]]:
        """Append the step that takes the images, let the caller append each of the network's, and the logits'."""
        network, last = self.network, self.layouts[self.network.output]
        self._pack(0, network.scale, network.shift, beside=False)
        if network.given is not None:
            zero = np.zeros(self.layouts[network.given].shape[0], np.float32)
            self._pack(network.given, zero + 1, zero, beside=True)
        for index, step in enumerate(network.steps):
            self._owner = index
            yield index, step
        self._owner = len(network.steps)
        kernel, source = passes.unpack(self.lanes), self.address(network.output)
        self.add(kernel, passes.UNPACK, source=source, **source_sizes(last))

    def _pack(self, value: int, scale: Floats, shift: Floats, *, beside: bool) -> None:
        words = {"target": self.address(value), "scale": self.keep(scale), "shift": self.keep(shift)}
        self.add(passes.pack(self.lanes, beside=beside), passes.PACK, **words, **source_sizes(self.layouts[value]))

    def pool(self, step: Pool, kernel: Any) -> None:
        """Append a pool."""
        windows = _axes(kernel=step.kernel, stride=step.stride, padding=step.padding, dilation=step.dilation)
        del windows["stride_x"]  # the kernel was compiled for it
        ends = {"source": self.address(step.source), "target": self.address(step.target)}
        taken = source_sizes(self.layouts[step.source])
        made = target_sizes(self.layouts[step.target])
        self.add(kernel, passes.POOL, divisor=step.divisor, **ends, **taken, **made, **windows)

    def affine(self, step: Affine) -> None:
        """Append a scaling."""
        other, sizes = addend(step), source_sizes(self.layouts[step.source])
        sizes["width"] *= self.lanes
        self.add(
            passes.affine(),
            passes.AFFINE,
            source=self.address(step.source),
            target=self.address(step.target),
            other=-1 if other is None else self.address(other),
            scale=self.keep(step.scale),
            shift=self.keep(step.shift),
            bounds=self.bounds(step.low, step.high),
            **sizes,
        )

    def backward(self, step: Gate | Spread | Repeat | Unflatten | Winners) -> None:
        """Append a step of a derivative."""
        ends = {"source": self.address(step.source), "target": self.address(step.target)}
        taken = source_sizes(self.layouts[step.source])
        maps = {**taken, **target_sizes(self.layouts[step.target])}
        if isinstance(step, Gate):
            more = {"gate": self.address(step.gate), "bounds": self.bounds(step.low, step.high)}
            self.add(backward.gate(self.lanes), backward.GATE, **ends, **more, **taken)
        elif isinstance(step, Spread):
            self.add(backward.spread(self.lanes), backward.SPREAD, **ends, **_axes(stride=step.stride), **maps)
        elif isinstance(step, Repeat):
            scale = self.keep(np.array([step.scale], np.float32))
            size = _axes(size=step.size)
            self.add(backward.repeat(self.lanes), backward.REPEAT, scale=scale, **ends, **size, **maps)
        elif isinstance(step, Unflatten):
            self.add(backward.unflatten(self.lanes), backward.UNFLATTEN, **ends, **maps)
        else:
            pool, image = step.pool, self.address(step.pool.source)
            pairs = {"kernel": pool.kernel, "stride": pool.stride, "padding": pool.padding}
            windows = _axes(**pairs, dilation=pool.dilation)
            self.add(backward.winners(self.lanes), backward.WINNERS, image=image, **ends, **maps, **windows)


def _axes(**pairs: Pair) -> dict[str, int]:
    return {f"{name}_{axis}": pair[i] for name, pair in pairs.items() for i, axis in enumerate("yx")}


def source_sizes(layout: Layout) -> dict[str, int]:
    """Return the words that describe the map a step takes."""
    channels, height, width = layout.shape
    return {"channels": channels, "height": height, "width": width, "plane": layout.plane, "pitch": layout.pitch}


def target_sizes(layout: Layout) -> dict[str, int]:
    """Return those that describe the map it makes."""
    return {f"target_{name}": size for name, size in source_sizes(layout).items() if name != "channels"}
