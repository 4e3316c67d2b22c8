"""The non-zeros of a convolution as the kernels walk them: records of an offset and the weights of its outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hedgerow.runtime.steps import Conv, Shape

Indices = NDArray[np.int64]
Place = Callable[[Indices, Indices, Indices], Indices]
"""From input channel, row and column of the kernel to the offset of that tap's first input, in floats."""

FEWEST = 8  # records per list and block: fewer, and beginning a block costs more than its inputs' nearness saves


@dataclass(frozen=True, eq=False)
class Records:
    """Lists of records `[n, 1 + outs]` of 32 bits; `rows` `[blocks, groups + 1]` says where each list begins."""

    lists: NDArray[np.int32]
    rows: Indices

    @property
    def blocks(self) -> int:
        """Blocks of input channels."""
        return len(self.rows)

    @property
    def groups(self) -> int:
        """Groups of output channels."""
        return int(self.rows.shape[1]) - 1


def block_count(conv: Conv, inputs: int, *, floats: int, level1: int, outs: int) -> int:
    """Return in how many blocks of input channels to take a tile that reads `floats` of each channel.

    The inputs of a block fit into the first cache. `outs` output channels share a list.
    """
    if conv.groups > 1 or not len(conv.taps.values):
        return 1
    wanted = math.ceil(inputs * floats * 4 / level1)
    length = len(conv.taps.values) / conv.taps.outputs if outs == 1 else float(inputs)
    return max(1, min(wanted, int(length / FEWEST), inputs))


def records(
    conv: Conv, shape: Shape, place: Place, *, span: tuple[int, int], outs: int, blocks: int, chains: int
) -> Records:
    """Return the records of the output channels from `span[0]` to `span[1]`, `outs` to a list.

    `shape` is that of the input. A list has whole rounds of `chains` records; the missing ones have weight 0.
    """
    taps, (first, end) = conv.taps, span
    part = slice(int(taps.starts[first]), int(taps.starts[end]))
    rows, columns = taps.rows[part], taps.columns[part]
    per_group = shape[0] // conv.groups
    column, kernel_x = np.divmod(columns, conv.kernel[1])
    within, kernel_y = np.divmod(column, conv.kernel[0])
    channel = rows // (taps.outputs // conv.groups) * per_group + within
    block = channel // -(-shape[0] // blocks)
    groups = (end - first) // outs
    key = block * groups + (rows - first) // outs
    # One record per tap of a list, whichever of its outputs have a weight there.
    width = shape[0] * conv.kernel[0] * conv.kernel[1]
    tap = (channel * conv.kernel[0] + kernel_y) * conv.kernel[1] + kernel_x
    found, which = np.unique(key * width + tap, return_inverse=True)
    lists, tap = np.divmod(found, width)
    counts = np.bincount(lists, minlength=blocks * groups)
    rounds = -(-counts // chains) * chains
    starts = np.concatenate([[0], np.cumsum(rounds)])
    to = starts[lists] + np.arange(len(found)) - np.concatenate([[0], np.cumsum(counts)])[lists]
    made = np.zeros((int(starts[-1]), 1 + outs), np.int32)
    column, kernel_x = np.divmod(tap, conv.kernel[1])
    made[to, 0] = place(*np.divmod(column, conv.kernel[0]), kernel_x)
    made[to[which], 1 + (rows - first) % outs] = taps.values[part].view(np.int32)
    each = np.arange(blocks)[:, None] * groups + np.arange(groups + 1)
    return Records(made, np.ascontiguousarray(starts[each]))
