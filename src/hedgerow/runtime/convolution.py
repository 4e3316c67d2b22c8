"""One convolution as steps of a schedule, whichever way the images lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hedgerow.runtime.kernels import CONV, conv, plain_conv
from hedgerow.runtime.machine import Machine
from hedgerow.runtime.records import Place, block_count, records
from hedgerow.runtime.schedule import BYTES, Schedule
from hedgerow.runtime.steps import Conv
from hedgerow.runtime.tile import Tile
from hedgerow.runtime.tiling import Region, chains


@dataclass(frozen=True)
class Reading:
    """How a convolution reads: from `source`, a place in bytes, taps at `place`, rows of outputs `pitch` apart.

    Neighbouring vectors of outputs read `step` floats apart; a tile of so many rows and columns reads `floats` of
    each channel. `mask` is an address, 0 for none.
    """

    source: int
    place: Place
    pitch: int
    step: int
    floats: int
    mask: int = 0


def add_conv(
    schedule: Schedule, step: Conv, machine: Machine, *, regions: list[Region], reading: Reading, outs: int
) -> None:
    """Append a convolution whose output channels walk their lists `outs` at a time, the last ones alone."""
    outputs = step.taps.outputs
    whole = outputs // outs * outs
    for span, together in (((0, whole), outs), ((whole, outputs), 1)):
        if span[0] < span[1]:
            _channels(schedule, step, machine, regions=regions, reading=reading, span=span, outs=together)


def _channels(
    schedule: Schedule,
    step: Conv,
    machine: Machine,
    *,
    regions: list[Region],
    reading: Reading,
    span: tuple[int, int],
    outs: int,
) -> None:
    shape, target = schedule.network.shapes[step.source], schedule.layouts[step.target]
    tiles = [
        Tile(rows, cols, reading.step, machine.lanes, chains(rows * cols * outs, machine.sums), outs)
        for *_, rows, cols in regions
    ]
    # All regions walk the same lists, hence in rounds that suit each of them.
    rounds = max(tile.chains for tile in tiles)
    blocks = block_count(step, shape[0], floats=reading.floats, level1=machine.level1, outs=outs)
    if machine.plain:
        rounds = blocks = 1
    lists = records(step, shape, reading.place, span=span, outs=outs, blocks=blocks, chains=rounds)
    first = BYTES * span[0] * target.plane
    words = {
        "source": reading.source,
        "target": schedule.address(step.target) + first,
        "start": -1 if step.residual is None else schedule.address(step.residual) + first,
        "mask": reading.mask,
        "taps": schedule.keep(lists.lists),
        "rows": schedule.keep(lists.rows),
        "bias": schedule.keep(step.bias[slice(*span)].astype(np.float32)),
        "bounds": schedule.bounds(step.low, step.high),
        "groups": lists.groups,
        "blocks": blocks,
        "source_pitch": reading.pitch,
        "target_pitch": target.pitch,
        "target_plane": target.plane,
    }
    for (top, bottom, left, right, *_), tile in zip(regions, tiles, strict=True):
        kernel = plain_conv(tile.step, tile.lanes) if machine.plain else conv(tile)
        schedule.add(kernel, CONV, top=top, bottom=bottom, left=left, right=right, **words)
