"""Every step but the convolutions in compiled form: images in, logits out, pools, sums, rearrangements.

Each has its words by name, in order. Places in the arena are in bytes; planes, pitches and moves are in floats.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from hedgerow.runtime.calls import compiled, floats_at, offsets_at, read, stamp, words_at
from hedgerow.runtime.vectors import pool_window, take_even

_MAP = ("channels", "height", "width", "plane", "pitch")
PACK = ("target", "scale", "shift", *_MAP)
UNPACK = ("source", *_MAP)
POOL = (
    *("source", "target", *_MAP, "target_height", "target_width", "target_plane", "target_pitch"),
    *("kernel_y", "kernel_x", "stride_y", "padding_y", "padding_x", "dilation_y", "dilation_x", "divisor"),
)
AFFINE = ("source", "target", "other", "scale", "shift", "bounds", *_MAP)
GATHER = (
    *("source", "target", *_MAP, "target_height", "target_width", "target_plane", "target_pitch"),
    *("phases", "kernel_x", "stride_y", "stride_x", "padding_y", "padding_x", "dilation_x"),
)
SHIFT = ("source", "target", "channels", "plane", "target_plane", "copies", "moves", "masks")
_FRAME = 5


@cache
def pack(lanes: int, *, beside: bool = False) -> Any:
    """Return the step that takes pixels from the images, scales and shifts them; absent images are 0.

    Or it takes what is given `beside` the images, laid out like those.
    """
    size, version = len(PACK), stamp()

    def run(words: int, arena: int, frame: int) -> None:
        target, scales, shifts, channels, height, width, plane, pitch = read(words, size)
        pixels, _, first, given, more = read(frame, _FRAME)
        images, scale, shift, made = (
            floats_at(more if beside else pixels),
            floats_at(scales),
            floats_at(shifts),
            floats_at(arena + target),
        )
        _ = version
        for channel in range(channels):
            for y in range(height):
                for lane in range(lanes):
                    to = channel * plane + y * pitch + lane
                    pixel = (((first + lane) * channels + channel) * height + y) * width
                    for x in range(width):
                        value = np.float32(0)
                        if lane < given:
                            value = images[pixel + x] * scale[channel] + shift[channel]
                        made[to + x * lanes] = value

    return compiled(run)


@cache
def unpack(lanes: int) -> Any:
    """Return the step that writes the output, logits or maps, of the images that were given."""
    size, version = len(UNPACK), stamp()

    def run(words: int, arena: int, frame: int) -> None:
        source, channels, height, width, plane, pitch = read(words, size)
        _, address, first, given, _ = read(frame, _FRAME)
        found, output, _ = floats_at(arena + source), floats_at(address), version
        for lane in range(min(given, lanes)):
            for channel in range(channels):
                for y in range(height):
                    to = (((first + lane) * channels + channel) * height + y) * width
                    at = channel * plane + y * pitch + lane
                    for x in range(width):
                        output[to + x] = found[at + x * lanes]

    return compiled(run)


@cache
def pool(lanes: int, largest: bool, stride: int, *, single: bool) -> Any:
    """Return the step that takes the largest or the mean of each window; what lies outside the map is no pixel.

    A mean is over `divisor` pixels, or over those inside where that is 0. A vector of `lanes` floats is a pixel of
    a batch or, of a single image, as many pixels of a row, when the `stride` there is 1 or 2.
    """
    narrow, apart, size, version = 1 if single else lanes, stride if single else 1, len(POOL), stamp()
    together = (lanes // narrow) if apart <= 2 else 0

    def run(words: int, arena: int, frame: int) -> None:
        (
            source, target, channels, height, width, plane, pitch, rows, cols, to_plane, to_pitch,
            ky, kx, sy, py, px, dy, dx, divisor,
        ) = read(words, size)  # fmt: skip
        # The columns whose windows lie inside from left to right, as far as whole vectors cover them.
        first, _ = min(cols, (px + stride - 1) // stride), version
        inside = max(0, min(cols, (width - 1 + px - (kx - 1) * dx) // stride + 1) - first)
        covered = inside // together * together if together > 0 else 0
        for row in range(rows):
            y = row * sy - py
            above, below = max(0, (dy - 1 - y) // dy), min(ky, (height - y + dy - 1) // dy)
            high, to = below - above, arena + target + 4 * row * to_pitch
            at = arena + source + 4 * (y + above * dy) * pitch
            share = np.float32(1.0 / (divisor if divisor > 0 else max(1, high * kx)))
            if together > 0:
                for channel in range(channels):
                    for col in range(first, first + covered, together):
                        x = (col * stride - px) * narrow
                        pool_window(
                            at + 4 * (channel * plane + x), to + 4 * (channel * to_plane + col * narrow),
                            high, kx, dy * pitch, dx * narrow, share, lanes, largest, apart,
                        )  # fmt: skip
            for i in range(cols - covered):
                col = i if i < first else i + covered
                x = col * stride - px
                left, right = max(0, (dx - 1 - x) // dx), min(kx, (width - x + dx - 1) // dx)
                share = np.float32(1.0 / (divisor if divisor > 0 else max(1, high * (right - left))))
                x = (x + left * dx) * narrow
                for channel in range(channels):
                    pool_window(
                        at + 4 * (channel * plane + x), to + 4 * (channel * to_plane + col * narrow),
                        high, right - left, dy * pitch, dx * narrow, share, narrow, largest, 1,
                    )  # fmt: skip

    return compiled(run)


@cache
def affine() -> Any:
    """Return the step that scales and shifts each channel, adds another activation of that shape, and clips.

    `width` is in floats, `other` is -1 for none.
    """
    size, version = len(AFFINE), stamp()

    def run(words: int, arena: int, frame: int) -> None:
        source, target, other, scales, shifts, bounds, channels, height, width, plane, pitch = read(words, size)
        scale, shift, ends, _ = floats_at(scales), floats_at(shifts), floats_at(bounds), version
        low, high = ends[0], ends[1]
        for channel in range(channels):
            factor, summand = scale[channel], shift[channel]
            for y in range(height):
                at = arena + 4 * (channel * plane + y * pitch)
                given, made, more = floats_at(source + at), floats_at(target + at), floats_at(other + at)
                for i in range(width):
                    value = given[i] * factor + summand
                    if other >= 0:
                        value += more[i]
                    value = low if value < low else value
                    made[i] = high if value > high else value

    return compiled(run)


@cache
def gather() -> Any:
    """Return the step that lays out a single image for a convolution that cannot read it in place.

    For each channel, row phase of the stride and column of the kernel it makes a plane in which the inputs of
    that tap lie as the outputs do.
    """
    size, version = len(GATHER), stamp()

    def run(words: int, arena: int, frame: int) -> None:
        (
            source, target, channels, height, width, plane, pitch, rows, cols, to_plane, to_pitch,
            phases, kx, sy, sx, py, px, dx,
        ) = read(words, size)  # fmt: skip
        given, made, _ = floats_at(arena + source), floats_at(arena + target), version
        for channel in range(channels):
            for phase in range(phases):
                for j in range(kx):
                    move = j * dx - px
                    left = min(cols, max(0, (sx - 1 - move) // sx))
                    right = max(left, min(cols, (width - move + sx - 1) // sx))
                    for i in range(rows):
                        y = i * sy + phase - py
                        to = ((channel * phases + phase) * kx + j) * to_plane + i * to_pitch
                        at = channel * plane + y * pitch + move
                        first, last = (left, right) if 0 <= y < height else (cols, cols)
                        for x in range(first):
                            made[to + x] = 0
                        for x in range(first, last):
                            made[to + x] = given[at + x * sx]
                        for x in range(last, cols):
                            made[to + x] = 0

    return compiled(run)


@cache
def gather_even(lanes: int) -> Any:
    """Return the same for a stride of 2 along rows, when the gaps of the image hold all of the padding.

    Whole vectors are written, beyond the end of a row too; the next row, or the mask of the outputs, covers that.
    """
    size, version = len(GATHER), stamp()

    def run(words: int, arena: int, frame: int) -> None:
        (
            source, target, channels, _, _, plane, pitch, rows, cols, to_plane, to_pitch,
            phases, kx, sy, _, py, px, dx,
        ) = read(words, size)  # fmt: skip
        _ = version
        for channel in range(channels):
            for phase in range(phases):
                for j in range(kx):
                    to = ((channel * phases + phase) * kx + j) * to_plane
                    at = channel * plane + (phase - py) * pitch + j * dx - px
                    for i in range(rows):
                        for x in range(0, cols, lanes):
                            even = arena + source + 4 * (at + i * sy * pitch + 2 * x)
                            take_even(even, arena + target + 4 * (to + i * to_pitch + x), lanes)

    return compiled(run)


@cache
def shift() -> Any:
    """Return the step that copies each plane of a single image `copies` times, moved and masked."""
    size, version = len(SHIFT), stamp()

    def run(words: int, arena: int, frame: int) -> None:
        source, target, channels, plane, to_plane, copies, moves, masks = read(words, size)
        move, _ = words_at(moves), version
        for channel in range(channels):
            for copy in range(copies):
                given = offsets_at(arena + source + 4 * (channel * plane + move[copy]))
                made = offsets_at(arena + target + 4 * (channel * copies + copy) * to_plane)
                mask = offsets_at(masks + 4 * copy * to_plane)
                for i in range(to_plane):
                    made[i] = given[i] & mask[i]

    return compiled(run)
