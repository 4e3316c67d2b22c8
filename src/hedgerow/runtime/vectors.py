"""Vectors of floats in LLVM IR, and the few small steps beside the convolutions that are written with them."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

WORD, FLOAT, SHORT = ir.IntType(64), ir.FloatType(), ir.IntType(32)


class Vectors:
    """Code on vectors of `lanes` floats, written through `builder`."""

    def __init__(self, builder: ir.IRBuilder, lanes: int) -> None:
        self.b, self.lanes, self.kind = builder, lanes, ir.VectorType(FLOAT, lanes)
        self.zero = ir.Constant(self.kind, [0.0] * lanes)

    def pointer(self, address: Any, to: ir.Type = FLOAT) -> Any:
        """Return an address, an integer of the code, as a pointer."""
        return self.b.inttoptr(address, to.as_pointer())

    def move(self, base: Any, index: Any) -> Any:
        """Return `base` moved by `index` of its elements, a number or a value of the code."""
        return self.b.gep(base, [ir.Constant(WORD, index) if isinstance(index, int) else index])

    def number(self, base: Any, index: int = 0) -> Any:
        """Return a single number from memory."""
        return self.b.load(self.move(base, index))

    def load(self, place: Any) -> Any:
        """Return the vector at `place`."""
        # Aligned as floats only: the vectors of a single image begin anywhere.
        return self.b.load(self.b.bitcast(place, self.kind.as_pointer()), align=4)

    def even(self, place: Any) -> Any:
        """Return every other float from `place` on."""
        pair = self.load(place), self.load(self.move(place, self.lanes))
        return self.b.shuffle_vector(*pair, self.lane_numbers(list(range(0, 2 * self.lanes, 2))))

    def store(self, value: Any, place: Any) -> None:
        """Put a vector at `place`."""
        self.b.store(value, self.b.bitcast(place, self.kind.as_pointer()), align=4)

    def splat(self, number: Any) -> Any:
        """Return the vector with a number in every lane."""
        empty = ir.Constant(self.kind, ir.Undefined)
        first = self.b.insert_element(empty, number, ir.Constant(SHORT, 0))
        return self.b.shuffle_vector(first, empty, self.lane_numbers([0] * self.lanes))

    def lane_numbers(self, numbers: list[int]) -> Any:
        """Return the constant that tells a shuffle which lanes to take."""
        return ir.Constant(ir.VectorType(SHORT, len(numbers)), numbers)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """Return a * b + c."""
        # Not llvm.fma, which becomes a call into the C library where the processor has no such instruction.
        kind = ir.FunctionType(self.kind, [self.kind] * 3)
        function = cgutils.get_or_insert_function(self.b.module, kind, f"llvm.fmuladd.v{self.lanes}f32")
        return self.b.call(function, [a, b, c])

    def masked(self, value: Any, mask: Any) -> Any:
        """Return the vector with the bits of `mask`; what is masked out is 0 even where it was infinite."""
        bits = ir.VectorType(SHORT, self.lanes)
        return self.b.bitcast(self.b.and_(self.b.bitcast(value, bits), self.b.bitcast(mask, bits)), self.kind)

    def larger(self, a: Any, b: Any) -> Any:
        """Return the larger of two vectors in every lane, NaN where either is."""
        return self.b.select(self.b.or_(self.b.fcmp_ordered(">", a, b), self.b.fcmp_unordered("!=", a, a)), a, b)


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def pool_window(  # noqa: PLR0913, PLR0917
    context: Any,
    source: Any,
    target: Any,
    rows: Any,
    cols: Any,
    row: Any,
    col: Any,
    share: Any,
    lanes: Any,
    largest: Any,
    stride: Any,
) -> Any:
    """Put the largest, or `share` times the sum, of `rows` x `cols` vectors at `target`; compiled code only.

    `source` and `target` are addresses, `row` and `col` distances in floats. The constants `lanes`, `largest` and
    `stride`: a vector has every, or with a stride of 2 every other, float of those at its place.
    """
    width, maximum, even = lanes.literal_value, bool(largest.literal_value), stride.literal_value == 2

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        v, zero, one = Vectors(builder, width), ir.Constant(WORD, 0), ir.Constant(WORD, 1)
        source, target, rows, cols, row, col, share = arguments[:7]
        read = v.even if even else v.load
        total = cgutils.alloca_once_value(builder, read(v.pointer(source)) if maximum else v.zero)
        with cgutils.for_range_slice(builder, zero, rows, one, WORD) as (i, _):
            line = v.move(v.pointer(source), builder.mul(i, row))
            with cgutils.for_range_slice(builder, zero, cols, one, WORD) as (j, _):
                found, before = read(v.move(line, builder.mul(j, col))), builder.load(total)
                builder.store(v.larger(found, before) if maximum else builder.fadd(found, before), total)
        result = builder.load(total)
        v.store(result if maximum else builder.fmul(result, v.splat(share)), v.pointer(target))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6, types.float32, lanes, largest, stride), code


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def take_even(context: Any, source: Any, target: Any, lanes: Any) -> Any:
    """Put every other of `2 * lanes` floats at `source` to `target`, both addresses; compiled code only."""
    width = lanes.literal_value

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        v = Vectors(builder, width)
        v.store(v.even(v.pointer(arguments[0])), v.pointer(arguments[1]))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, lanes), code


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def keep_between(context: Any, source: Any, target: Any, by: Any, low: Any, high: Any, lanes: Any) -> Any:
    """Put the vector at `source` to `target`, 0 where `by` is not between the bounds; compiled code only."""
    width = lanes.literal_value

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        v = Vectors(builder, width)
        found, judge = (v.load(v.pointer(arguments[i])) for i in (0, 2))
        low, high = (v.splat(arguments[i]) for i in (3, 4))
        inside = builder.and_(builder.fcmp_ordered(">", judge, low), builder.fcmp_ordered("<", judge, high))
        v.store(builder.select(inside, found, v.zero), v.pointer(arguments[1]))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 3, types.float32, types.float32, lanes), code
