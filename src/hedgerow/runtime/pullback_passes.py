"""The steps of a derivative that no forward pass has, in compiled form: for batches, a pixel in a vector.

Each has its words by name, in order. Places in the arena are in bytes; planes and pitches are in floats.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from hedgerow.runtime.calls import compiled, floats_at, read, stamp
from hedgerow.runtime.vectors import keep_between

_SOURCE = ("channels", "height", "width", "plane", "pitch")
_TARGET = ("target_height", "target_width", "target_plane", "target_pitch")
GATE = ("source", "target", "gate", "bounds", *_SOURCE)
SPREAD = ("source", "target", "stride_y", "stride_x", *_SOURCE, *_TARGET)
REPEAT = ("source", "target", "scale", "size_y", "size_x", *_SOURCE, *_TARGET)
UNFLATTEN = ("source", "target", *_SOURCE, *_TARGET)
WINNERS = (
    *("source", "target", "image", *_SOURCE, *_TARGET),
    *("kernel_y", "kernel_x", "stride_y", "stride_x", "padding_y", "padding_x", "dilation_y", "dilation_x"),
)


@cache
def gate(lanes: int) -> Any:
    """Return the step that keeps what lies where another activation is between its bounds; the rest becomes 0."""
    size, version = len(GATE), stamp()

    def run(words: int, arena: int, frame: int) -> None:
        source, target, by, bounds, channels, height, width, plane, pitch = read(words, size)
        ends, _ = floats_at(bounds), version
        low, high = ends[0], ends[1]
        for channel in range(channels):
            for y in range(height):
                at = arena + 4 * (channel * plane + y * pitch)
                for x in range(width):
                    here = at + 4 * x * lanes
                    keep_between(source + here, target + here, by + here, low, high, lanes)

    return compiled(run)


@cache
def spread(lanes: int) -> Any:
    """Return the step that puts zeros between pixels."""
    size, version = len(SPREAD), stamp()

    def run(words: int, arena: int, frame: int) -> None:
        (
            source, target, sy, sx, channels, height, width, plane, pitch,
            rows, cols, to_plane, to_pitch,
        ) = read(words, size)  # fmt: skip
        _ = version
        for channel in range(channels):
            for y in range(rows):
                made = floats_at(arena + target + 4 * (channel * to_plane + y * to_pitch))
                for i in range(cols * lanes):
                    made[i] = np.float32(0)
                if y % sy == 0 and y // sy < height:
                    given = floats_at(arena + source + 4 * (channel * plane + y // sy * pitch))
                    for x in range(width):
                        for lane in range(lanes):
                            made[x * sx * lanes + lane] = given[x * lanes + lane]

    return compiled(run)


@cache
def repeat(lanes: int) -> Any:
    """Return the step that writes each pixel, scaled, into a block of pixels; the scale is at an address."""
    size, version = len(REPEAT), stamp()

    def run(words: int, arena: int, frame: int) -> None:
        (
            source, target, scale, by, bx, channels, height, width, plane, pitch,
            _, _, to_plane, to_pitch,
        ) = read(words, size)  # fmt: skip
        share, _ = floats_at(scale)[0], version
        for channel in range(channels):
            for y in range(height * by):
                given = floats_at(arena + source + 4 * (channel * plane + y // by * pitch))
                made = floats_at(arena + target + 4 * (channel * to_plane + y * to_pitch))
                for x in range(width):
                    for copy in range(bx):
                        for lane in range(lanes):
                            made[(x * bx + copy) * lanes + lane] = given[x * lanes + lane] * share

    return compiled(run)


@cache
def unflatten(lanes: int) -> Any:
    """Return the step that makes maps of channels of one pixel each."""
    size, version = len(UNFLATTEN), stamp()

    def run(words: int, arena: int, frame: int) -> None:
        source, target, channels, _, _, plane, _, rows, cols, to_plane, to_pitch = read(words, size)
        given, made, _ = floats_at(arena + source), floats_at(arena + target), version
        for number in range(channels):
            pixel, x = divmod(number, cols)
            channel, y = divmod(pixel, rows)
            to = channel * to_plane + y * to_pitch + x * lanes
            for lane in range(lanes):
                made[to + lane] = given[number * plane + lane]

    return compiled(run)


@cache
def winners(lanes: int) -> Any:
    """Return the step that gives each number to the first largest pixel of its window, added up."""
    size, version = len(WINNERS), stamp()

    def run(words: int, arena: int, frame: int) -> None:
        (
            source, target, image, channels, height, width, plane, pitch, rows, cols, to_plane, to_pitch,
            ky, kx, sy, sx, py, px, dy, dx,
        ) = read(words, size)  # fmt: skip
        _ = version
        for channel in range(channels):
            given = floats_at(arena + source + 4 * channel * plane)
            pixels = floats_at(arena + image + 4 * channel * to_plane)
            made = floats_at(arena + target + 4 * channel * to_plane)
            for y in range(rows):
                for i in range(cols * lanes):
                    made[y * to_pitch + i] = np.float32(0)
            for y in range(height):
                for x in range(width):
                    for lane in range(lanes):
                        best, place = np.float32(-np.inf), -1
                        for i in range(ky):
                            for j in range(kx):
                                row, col = y * sy - py + i * dy, x * sx - px + j * dx
                                if 0 <= row < rows and 0 <= col < cols:
                                    at = row * to_pitch + col * lanes + lane
                                    if place < 0 or pixels[at] > best:
                                        best, place = pixels[at], at
                        made[place] += given[y * pitch + x * lanes + lane]

    return compiled(run)
