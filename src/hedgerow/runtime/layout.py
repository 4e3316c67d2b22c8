"""Where the activations of a thread lie: planes with zeros between them, and buffers that are used again."""

from __future__ import annotations

from dataclasses import dataclass

from hedgerow.runtime.network import Network
from hedgerow.runtime.steps import Affine, Conv, Gate, Shape, Step, reads

ALIGNED = 16  # floats: a cache line, and the widest vector
MARGIN = 1024  # floats before the first buffer: a copy that is moved begins to read there


@dataclass(frozen=True)
class Layout:
    """An activation as channels of rows of pixels, `lanes` floats each; the zeros between are the `gap`.

    A gap is so many rows and columns: the one after a row is the padding before the next, and the one below a
    plane that above the next. `least` is what a plane has at least, in floats.
    """

    shape: Shape
    lanes: int
    gap: tuple[int, int] = (0, 0)
    least: int = 0

    @property
    def pitch(self) -> int:
        """Floats from row to row."""
        return (self.shape[2] + self.gap[1]) * self.lanes

    @property
    def plane(self) -> int:
        """Floats from channel to channel."""
        return max((self.shape[1] + self.gap[0]) * self.pitch, self.least)

    @property
    def origin(self) -> int:
        """Floats before the first pixel."""
        return self.before(*self.gap)

    @property
    def size(self) -> int:
        """Floats of the whole buffer, with room for vectors that run over its end."""
        end = 2 * self.origin + self.shape[0] * self.plane + ALIGNED
        return -(-end // ALIGNED) * ALIGNED

    def before(self, rows: int, columns: int) -> int:
        """Floats from the pixel so many rows and columns before another to that one."""
        return rows * self.pitch + columns * self.lanes


def gaps(network: Network) -> dict[tuple[int, int], tuple[int, int]]:
    """Return for every height and width the largest padding of the convolutions that take such an activation.

    One gap for all of a size: activations that are added to each other must lie alike.
    """
    found = {shape[1:]: (0, 0) for shape in network.shapes}
    for step in network.steps:
        if isinstance(step, Conv):
            size = network.shapes[step.source][1:]
            found[size] = (max(found[size][0], step.padding[0]), max(found[size][1], step.padding[1]))
    return found


def addend(step: Step) -> int | None:
    """Return the activation that a step adds to its result."""
    if isinstance(step, Conv):
        return step.residual
    return step.other if isinstance(step, Affine) else None


def _replaced(step: Step) -> int | None:
    """Return the activation in whose place the result may be written, when nobody needs that one again."""
    if isinstance(step, Gate):
        return None if step.gate == step.source else step.source
    more = addend(step)
    return None if more == step.source else more


def places(network: Network, layouts: list[Layout]) -> tuple[list[int], int]:
    """Return where each activation's buffer begins in the arena, in floats, and the length of the arena.

    A buffer is used again by an activation of the same layout, so that the zeros between its planes stay; what is
    added and never needed again is replaced by the sum.
    """
    last = {network.output: len(network.steps)}
    for index, step in enumerate(network.steps):
        for value in reads(step):
            last[value] = max(last.get(value, 0), index)
    found, length = [MARGIN] * len(layouts), MARGIN + layouts[0].size
    if network.given is not None:
        found[network.given], length = length, length + layouts[network.given].size
    free: dict[Layout, list[int]] = {}
    for index, step in enumerate(network.steps):
        layout, replaced = layouts[step.target], _replaced(step)
        if replaced is not None and last[replaced] == index:
            found[step.target] = found[replaced]
        elif free.get(layout):
            found[step.target] = free[layout].pop()
        else:
            found[step.target], length = length, length + layout.size
        # The images are written anew each time, hence their buffer may go round like any other.
        for value in set(reads(step)):
            if last[value] == index and found[value] != found[step.target]:
                free.setdefault(layouts[value], []).append(found[value])
        if step.target not in last:  # nobody takes it
            free.setdefault(layout, []).append(found[step.target])
    return found, length
