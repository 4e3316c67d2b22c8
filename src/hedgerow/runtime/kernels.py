"""Convolutions in compiled form; none of them depends on a mask.

An activation lies in planes, one per channel, of rows of vectors of `lanes` floats. Batches have the same pixel of
`lanes` images in a vector; a single image has lanes of 1, and its convolutions take vectors along its rows.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from hedgerow.runtime.calls import compiled, floats_at, offsets_at, read, stamp, words_at
from hedgerow.runtime.tile import Tile, walk_tile

CONV = (
    *("source", "target", "start", "mask", "taps", "rows", "bias", "bounds", "groups", "blocks"),
    *("top", "bottom", "left", "right", "source_pitch", "target_pitch", "target_plane"),
)
"""The words of a convolution, in order: outputs from `top` to `bottom` and `left` to `right`, in `groups` of
channels, input channels in `blocks`. Places in the arena are in bytes (`start`, what is added: -1 for none), and
pitches and the plane in floats; the others are addresses. `rows` has for each block the record at which the
list of each group begins, and the end; `bounds` has low, high, -inf, inf, and zeros that stand for the bias in
later blocks."""


@cache
def conv(tile: Tile) -> Any:
    """Return the convolution in tiles of registers."""
    rows, cols, step, lanes = tile.rows, tile.cols, tile.step, tile.lanes
    chains, outs, size, version = tile.chains, tile.outs, len(CONV), stamp()

    def run(words: int, arena: int, frame: int) -> None:
        (
            source, target, start, mask, taps, lists, bias, bounds, groups, blocks,
            top, bottom, left, right, pitch, target_pitch, plane,
        ) = read(words, size)  # fmt: skip
        begins, _ = words_at(lists), version
        for y in range(top, bottom, rows):
            for x in range(left, right, cols):
                images = arena + source + 4 * (y * pitch + x * step)
                inside = arena + 4 * (y * target_pitch + x * lanes)
                cover = mask + 4 * x * lanes if mask != 0 else 0
                for block in range(blocks):
                    first, last = block == 0, block == blocks - 1
                    ends = bounds if last else bounds + 8
                    for group in range(groups):
                        row = block * (groups + 1) + group
                        count = begins[row + 1] - begins[row]
                        if count == 0 and not first and not last:
                            continue
                        place = inside + 4 * group * outs * plane
                        biases, given = bounds + 16, target + place
                        if first:
                            biases, given = bias + 4 * outs * group, start + place if start >= 0 else 0
                        walk_tile(
                            images, taps + 4 * (1 + outs) * begins[row], count, biases, given, target + place,
                            pitch, target_pitch, plane, ends, cover, rows, cols, step, lanes, chains, outs,
                        )  # fmt: skip

    return compiled(run)


@cache
def plain_conv(step: int, lanes: int) -> Any:
    """Return the same without LLVM's vectors, whatever the machine: one pass over a row for every non-zero.

    It takes one output channel a list and all input channels in one block.
    """
    size, version = len(CONV), stamp()

    def run(words: int, arena: int, frame: int) -> None:
        (
            source, target, start, mask, taps, lists, bias, bounds, groups, _,
            top, bottom, left, right, pitch, target_pitch, plane,
        ) = read(words, size)  # fmt: skip
        begins, biases, ends, offsets, weights = (
            words_at(lists), floats_at(bias), floats_at(bounds), offsets_at(taps), floats_at(taps)
        )  # fmt: skip
        low, high, floats, _ = ends[0], ends[1], (right - left) * lanes, version
        for group in range(groups):
            for y in range(top, bottom):
                inside = arena + 4 * (group * plane + y * target_pitch + left * lanes)
                sums, given = floats_at(target + inside), floats_at(start + inside)
                for i in range(floats):
                    sums[i] = biases[group] + (given[i] if start >= 0 else 0)
                for record in range(begins[group], begins[group + 1]):
                    weight, first = weights[2 * record + 1], y * pitch + left * step + offsets[2 * record]
                    images = floats_at(arena + source + 4 * first)
                    for x in range(right - left):
                        for lane in range(lanes):
                            sums[x * lanes + lane] += weight * images[x * step + lane]
                cover = offsets_at(mask + 4 * left * lanes)
                for i in range(floats):
                    value = low if sums[i] < low else sums[i]
                    value = high if value > high else value
                    sums[i] = 0 if mask != 0 and cover[i] == 0 else value

    return compiled(run)
