"""Many images at once: the same pixel of as many images as a vector has floats lies in one vector."""

from __future__ import annotations

from hedgerow.runtime import passes
from hedgerow.runtime.convolution import Reading, add_conv
from hedgerow.runtime.layout import Layout, gaps
from hedgerow.runtime.machine import Machine
from hedgerow.runtime.network import Network
from hedgerow.runtime.schedule import BYTES, Schedule
from hedgerow.runtime.steps import Affine, Conv, Pool
from hedgerow.runtime.tiling import Region, cover, slice_of, tiles


def batch_schedule(network: Network, machine: Machine, shared: frozenset[int] = frozenset()) -> Schedule:
    """Return the schedule for groups of `machine.lanes` images.

    In the convolutions whose step numbers are `shared`, several output channels walk one list.
    """
    gap = gaps(network)
    layouts = [Layout(shape, machine.lanes, gap[shape[1:]]) for shape in network.shapes]
    schedule = Schedule(network, layouts, machine.lanes)
    for index, step in schedule.steps():
        if isinstance(step, Conv):
            outs = machine.outs if index in shared else 1
            regions = _regions(step, layouts[step.target], machine, outs)
            reading = _reading(schedule, step, regions[0])
            add_conv(schedule, step, machine, regions=regions, reading=reading, outs=outs)
        elif isinstance(step, Pool):
            kernel = passes.pool(machine.lanes, step.kind == "max", step.stride[1], single=False)
            schedule.pool(step, kernel)
        elif isinstance(step, Affine):
            schedule.affine(step)
        else:
            schedule.backward(step)
    return schedule


def _regions(step: Conv, target: Layout, machine: Machine, outs: int) -> list[Region]:
    _, height, width = target.shape
    if machine.plain:
        return cover(height, width, height, width)
    if outs > 1:
        return cover(height, width, 1, min(width, machine.shared))
    return tiles(height, width, most=machine.sums)


def _reading(schedule: Schedule, step: Conv, region: Region) -> Reading:
    layout = schedule.layouts[step.source]
    start = layout.origin - layout.before(*step.padding)
    reach = [(step.kernel[i] - 1) * step.dilation[i] + 1 for i in range(2)]
    rows, cols = (slice_of(region[4 + i], step.stride[i], reach[i]) for i in range(2))
    return Reading(
        source=BYTES * (schedule.places[step.source] + start),
        place=lambda channel, y, x: (
            channel * layout.plane + y * (step.dilation[0] * layout.pitch) + x * (step.dilation[1] * layout.lanes)
        ),
        pitch=step.stride[0] * layout.pitch,
        step=step.stride[1] * layout.lanes,
        floats=rows * cols * layout.lanes,
    )
