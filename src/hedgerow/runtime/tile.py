"""The inner loop as LLVM IR: a tile of outputs stays in registers while it walks one list of non-zero weights."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from hedgerow.runtime.vectors import FLOAT, SHORT, WORD, Vectors


@dataclass(frozen=True)
class Tile:
    """What one walk computes: `rows` x `cols` vectors of `lanes` floats, for each of `outs` output channels.

    `step` is the distance of two neighbouring vectors in the input, in floats; in the output it is `lanes`. With
    `chains` above 1 as many partial sums run beside each other, which hides the latency of a small tile.
    """

    rows: int
    cols: int
    step: int
    lanes: int
    chains: int
    outs: int


class _Walk:
    """The code of one tile; its sums are written as stack slots, which LLVM turns into registers."""

    def __init__(self, builder: ir.IRBuilder, tile: Tile) -> None:
        self.b, self.tile, self.v = builder, tile, Vectors(builder, tile.lanes)
        self.places = list(product(range(tile.rows), range(tile.cols)))
        keys = product(range(tile.chains), range(tile.outs), self.places)
        self.sums = {key: cgutils.alloca_once(builder, self.v.kind) for key in keys}

    def at(self, base: Any, row: int, pitch: Any, offset: int) -> Any:
        index = ir.Constant(WORD, offset)
        return self.v.move(base, self.b.add(self.b.mul(pitch, ir.Constant(WORD, row)), index) if row else index)

    def begin(self, bias: Any, start: Any, pitch: Any, plane: Any) -> None:
        """Set the sums to the bias, plus what lies at `start` unless that address is 0."""
        b, v, tile = self.b, self.v, self.tile
        for out in range(tile.outs):
            value = v.splat(v.number(v.pointer(bias), out))
            base = v.move(v.pointer(start), b.mul(plane, ir.Constant(WORD, out)))
            with b.if_else(b.icmp_unsigned("!=", start, ir.Constant(WORD, 0))) as (given, absent):
                with given:
                    for row, col in self.places:
                        found = v.load(self.at(base, row, pitch, col * tile.lanes))
                        b.store(b.fadd(found, value), self.sums[0, out, (row, col)])
                with absent:
                    for place in self.places:
                        b.store(value, self.sums[0, out, place])
            for chain, place in product(range(1, tile.chains), self.places):
                b.store(v.zero, self.sums[chain, out, place])

    def walk(self, images: Any, taps: Any, count: Any, pitch: Any) -> None:
        """Add `count` records, each an offset into the input and a weight for every output."""
        b, v, size = self.b, self.v, 1 + self.tile.outs
        step, zero = ir.Constant(WORD, self.tile.chains), ir.Constant(WORD, 0)
        before, loop, after = b.block, b.append_basic_block("walk"), b.append_basic_block("walked")
        b.cbranch(b.icmp_signed(">", count, zero), loop, after)
        b.position_at_end(loop)
        index = b.phi(WORD)
        index.add_incoming(zero, before)
        first = v.move(v.pointer(taps, SHORT), b.mul(index, ir.Constant(WORD, size)))
        for chain in range(self.tile.chains):
            self.record(v.move(first, chain * size), v.pointer(images), pitch, chain)
        self.keep_rolled()
        following = b.add(index, step)
        index.add_incoming(following, loop)
        b.cbranch(b.icmp_signed("<", following, count), loop, after)
        b.position_at_end(after)

    def record(self, record: Any, images: Any, pitch: Any, chain: int) -> None:
        """Add one record to one chain of sums."""
        b, v = self.b, self.v
        base = v.move(images, b.sext(b.load(record), WORD))
        found = {(r, c): v.load(self.at(base, r, pitch, c * self.tile.step)) for r, c in self.places}
        for out in range(self.tile.outs):
            weight = v.splat(v.number(b.bitcast(record, FLOAT.as_pointer()), 1 + out))
            for place in self.places:
                slot = self.sums[chain, out, place]
                b.store(v.multiply_add(weight, found[place], b.load(slot)), slot)

    def keep_rolled(self) -> None:
        """Keep LLVM from unrolling the loop: of two unpredictable ends the second costs more than it saves."""
        call = self.b.asm(ir.FunctionType(ir.VoidType(), []), "", "", [], side_effect=True)
        call.attributes.add("convergent")

    def finish(self, target: Any, pitch: Any, plane: Any, bounds: Any, mask: Any) -> None:
        """Clip the sums to `bounds` (NaN stays), mask them unless the mask's address is 0, and store them."""
        b, v, tile = self.b, self.v, self.tile
        ends = [v.splat(v.number(v.pointer(bounds), end)) for end in range(2)]
        covered = b.icmp_unsigned("!=", mask, ir.Constant(WORD, 0))
        for out, (row, col) in product(range(tile.outs), self.places):
            slot = self.sums[0, out, (row, col)]
            value = b.load(slot)
            for chain in range(1, tile.chains):
                value = b.fadd(value, b.load(self.sums[chain, out, (row, col)]))
            for sign, end in zip("<>", ends, strict=True):
                value = b.select(b.fcmp_ordered(sign, value, end), end, value)
            b.store(value, slot)
            with b.if_then(covered):
                cover = v.load(self.at(v.pointer(mask), row, pitch, col * tile.lanes))
                b.store(v.masked(value, cover), slot)
            base = v.move(v.pointer(target), b.mul(plane, ir.Constant(WORD, out)))
            v.store(b.load(slot), self.at(base, row, pitch, col * tile.lanes))


_WORDS = 11


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def walk_tile(  # noqa: PLR0913, PLR0917
    context: Any,
    images: Any,
    taps: Any,
    count: Any,
    bias: Any,
    start: Any,
    target: Any,
    pitch: Any,
    target_pitch: Any,
    target_plane: Any,
    bounds: Any,
    mask: Any,
    rows: Any,
    cols: Any,
    step: Any,
    lanes: Any,
    chains: Any,
    outs: Any,
) -> Any:
    """Compute one tile of `outs` output channels from `count` records at `taps`; compiled code only.

    Addresses: `images` of the tile's first input, `bias` (a float per output), `start` of what to add (0: none),
    `target`, `bounds` (two floats), `mask` (0: none). Pitches and the plane are in floats. `count` is a multiple
    of `chains`; the last six are constants, the fields of `Tile`.
    """
    shape = (rows, cols, step, lanes, chains, outs)
    tile = Tile(*(number.literal_value for number in shape))

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        images, taps, count, bias, start, target, pitch, target_pitch, plane, bounds, mask = arguments[:_WORDS]
        walk = _Walk(builder, tile)
        walk.begin(bias, start, target_pitch, plane)
        walk.walk(images, taps, count, pitch)
        walk.finish(target, target_pitch, plane, bounds, mask)
        return context.get_dummy_value()

    return types.void(*[types.intp] * _WORDS, *shape), code
