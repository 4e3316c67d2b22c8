"""One image alone: vectors run along the rows of a plane, over its gaps, which a mask sets back to 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from hedgerow.runtime import passes
from hedgerow.runtime.convolution import Reading, add_conv
from hedgerow.runtime.layout import ALIGNED, MARGIN, Layout, gaps
from hedgerow.runtime.machine import Machine
from hedgerow.runtime.network import Network
from hedgerow.runtime.records import Indices, Place
from hedgerow.runtime.schedule import BYTES, Schedule, source_sizes, target_sizes
from hedgerow.runtime.steps import Affine, Conv, Pair, Pool, Shape
from hedgerow.runtime.tiling import cover

_CLOSE = 1.3  # as many times the vectors cost more than laying the image out without gaps


@dataclass(frozen=True)
class Run:
    """How a map of one size is computed: `count` times `cols` vectors cover its rows and the `gap` after each."""

    gap: Pair
    cols: int
    count: int

    @property
    def vectors(self) -> int:
        """All of them."""
        return self.cols * self.count


def run_of(size: Pair, gap: Pair, machine: Machine) -> Run:
    """Return how to compute a map; one of few pixels has no gaps, when these would cost too many vectors."""
    with_gaps, without = (-(-size[0] * (size[1] + g) // machine.lanes) for g in (gap[1], 0))
    if with_gaps > _CLOSE * without:
        gap, with_gaps = (0, 0), without
    count = -(-with_gaps // machine.most)
    return Run(gap, -(-with_gaps // count), count)


def single_schedule(network: Network, machine: Machine, shared: frozenset[int] = frozenset()) -> Schedule:
    """Return the schedule for one image at a time; `shared` as in `batch_schedule`."""
    gap = gaps(network)
    runs = {size: run_of(size, gap[size], machine) for size in gap}
    layouts = [_layout(shape, runs, machine) for shape in network.shapes]
    schedule = Schedule(network, layouts, 1)
    for index, step in schedule.steps():
        if isinstance(step, Conv):
            outs = machine.outs if index in shared else 1
            run = runs[layouts[step.target].shape[1:]]
            _conv(schedule, step, machine, run=run, outs=outs)
        elif isinstance(step, Pool):
            # Vectors no longer than the rows that they lie along.
            lanes = min(machine.lanes, 2 ** (network.shapes[step.target][2].bit_length() - 1))
            kernel = passes.pool(lanes, step.kind == "max", step.stride[1], single=True)
            schedule.pool(step, kernel)
        elif isinstance(step, Affine):
            schedule.affine(step)
        else:
            raise TypeError("derivatives are computed in groups of images")
    return schedule


def _layout(shape: Shape, runs: dict[Pair, Run], machine: Machine) -> Layout:
    run = runs[shape[1:]]
    return Layout(shape, 1, run.gap, run.vectors * machine.lanes)


def _conv(schedule: Schedule, step: Conv, machine: Machine, *, run: Run, outs: int) -> None:
    cols = run.cols if outs == 1 else max(1, machine.most // outs)
    regions = cover(1, run.vectors, 1, min(cols, run.vectors))
    span = regions[0][5] * machine.lanes
    reading = _reading(schedule, step, machine, run, span)
    add_conv(schedule, step, machine, regions=regions, reading=reading, outs=outs)


def _reading(schedule: Schedule, step: Conv, machine: Machine, run: Run, span: int) -> Reading:
    """How a convolution reads planes that lie as its outputs do: in place, or from copies made for it."""
    source, target = schedule.layouts[step.source], schedule.layouts[step.target]
    reach = [(step.kernel[i] - 1) * step.dilation[i] for i in range(2)]
    alike = step.stride == (1, 1) and source.shape[1:] == target.shape[1:]
    covered = all(step.padding[i] <= source.gap[i] for i in range(2))
    mask = _mask(schedule, target, run, machine) if run.gap != (0, 0) else 0
    if (alike and covered) or (target.shape[1:] == (1, 1) and step.padding == (0, 0)):
        start, floats = schedule.places[step.source] + source.origin - source.before(*step.padding), source.pitch
        place = _in_place(step, source)
        return Reading(BYTES * start, place, 0, machine.lanes, span + reach[0] * floats + reach[1], mask)
    rows = reach[0] // step.stride[0]
    plane = rows * target.pitch + run.vectors * machine.lanes
    copies = _Copies(min(step.stride[0], reach[0] + 1), -(-plane // ALIGNED) * ALIGNED)
    if alike and max(step.padding) * (source.pitch + 1) <= MARGIN:
        begin = _shifted(schedule, step, copies)
    else:
        begin = _gathered(schedule, step, machine, copies=copies, rows=target.shape[1] + rows)
    per_channel = step.kernel[1] * copies.phases * (span + rows * target.pitch)
    return Reading(begin, _from_copies(step, target, copies), 0, machine.lanes, per_channel, mask)


@dataclass(frozen=True)
class _Copies:
    """For each channel, row phase of the stride and column of the kernel a plane of so many floats."""

    phases: int
    plane: int


def _in_place(step: Conv, source: Layout) -> Place:
    pitch, apart = step.dilation[0] * source.pitch, step.dilation[1]
    return lambda channel, y, x: channel * source.plane + y * pitch + x * apart


def _from_copies(step: Conv, target: Layout, copies: _Copies) -> Place:
    stride, dilation, columns = step.stride[0], step.dilation[0], step.kernel[1]

    def place(channel: Indices, y: Indices, x: Indices) -> Indices:
        row, phase = np.divmod(y * dilation, stride)
        planes = (channel * copies.phases + phase) * columns + x
        return cast(Indices, planes * copies.plane + row * target.pitch)

    return place


def _mask(schedule: Schedule, target: Layout, run: Run, machine: Machine) -> int:
    """All bits where a vector of a plane has a pixel, none in the gaps."""
    row, column = np.divmod(np.arange(run.vectors * machine.lanes), target.pitch)
    inside = (row < target.shape[1]) & (column < target.shape[2])
    return schedule.keep(-inside.astype(np.int32))


def _shifted(schedule: Schedule, step: Conv, copies: _Copies) -> int:
    source = schedule.layouts[step.source]
    (_, height, width), columns = source.shape, step.kernel[1]
    room = schedule.room(source.shape[0] * columns * copies.plane)
    moves = np.arange(columns) * step.dilation[1] - step.padding[1]
    row, column = np.divmod(np.arange(copies.plane), width)
    row, column = row[None] - step.padding[0], column[None] + moves[:, None]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    schedule.add(
        passes.shift(),
        passes.SHIFT,
        source=schedule.address(step.source),
        target=room,
        channels=source.shape[0],
        plane=source.plane,
        target_plane=copies.plane,
        copies=columns,
        moves=schedule.keep(moves - step.padding[0] * width),
        masks=schedule.keep(-inside.astype(np.int32)),
    )
    return room


def _gathered(schedule: Schedule, step: Conv, machine: Machine, *, copies: _Copies, rows: int) -> int:
    source, target = schedule.layouts[step.source], schedule.layouts[step.target]
    halved = step.stride[1] == 2 and all(step.padding[i] <= source.gap[i] for i in range(2)) and not machine.plain
    room = schedule.room(source.shape[0] * copies.phases * step.kernel[1] * copies.plane)
    made = target_sizes(target) | {"target_height": rows, "target_plane": copies.plane}
    schedule.add(
        passes.gather_even(machine.lanes) if halved else passes.gather(),
        passes.GATHER,
        source=schedule.address(step.source),
        target=room,
        phases=copies.phases,
        kernel_x=step.kernel[1],
        stride_y=step.stride[0],
        stride_x=step.stride[1],
        padding_y=step.padding[0],
        padding_x=step.padding[1],
        dilation_x=step.dilation[1],
        **source_sizes(source),
        **made,
    )
    return room
