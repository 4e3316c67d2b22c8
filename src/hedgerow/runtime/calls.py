"""Compiled steps behind one signature, called by address: `step(words, arena, frame)`.

`words` are the step's own 64-bit numbers, `arena` is the address of the thread's activations, and `frame` holds
what changes from call to call: the addresses of images and output, the first image and how many, and the address
of what is given beside the images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

SIGNATURE = types.void(types.intp, types.intp, types.intp)
WORD = ir.IntType(64)
_COMPILED = ("calls", "kernels", "passes", "pullback_passes", "tile", "vectors")


@cache
def stamp() -> int:
    """Return a number of the sources that become machine code: Numba's disk cache looks at one of them alone."""
    text = b"".join((Path(__file__).parent / f"{name}.py").read_bytes() for name in _COMPILED)
    return int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big")


def compiled(step: Callable[[int, int, int], None]) -> Any:
    """Compile one step for this machine, or take it from Numba's disk cache; its `address` is what runs.

    A step that closes over `stamp()` is compiled again when one of those sources has changed.
    """
    return cfunc(SIGNATURE, cache=True, error_model="numpy")(step)


def _pointer(to: Any, element: ir.Type) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def pointer(context: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], element.as_pointer())

        return types.CPointer(to)(types.intp), code

    return pointer


words_at = _pointer(types.int64, WORD)
floats_at = _pointer(types.float32, ir.FloatType())
offsets_at = _pointer(types.int32, ir.IntType(32))


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def read(context: Any, address: Any, count: Any) -> Any:
    """Return the words at an address as a tuple of `count`, a constant; compiled code only."""
    size = count.literal_value

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = builder.inttoptr(arguments[0], WORD.as_pointer())
        words = [builder.load(builder.gep(first, [ir.Constant(WORD, i)])) for i in range(size)]
        return cgutils.pack_array(builder, words)

    return types.UniTuple(types.int64, size)(types.intp, count), code


@intrinsic  # type: ignore[untyped-decorator]
def _call(context: Any, address: Any, words: Any, arena: Any, frame: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [WORD] * 3)
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), code


@cache
def runner() -> Any:
    """Return the compiled loop over groups of images and, within each, over the steps; it releases the GIL."""
    version = stamp()

    def run(steps: Any, arena: int, frame: Any, first: int, last: int, lanes: int) -> None:
        _ = version
        for image in range(first, last, lanes):
            frame[2] = image
            frame[3] = min(lanes, last - image)
            for step in range(steps.shape[0]):
                _call(steps[step, 0], steps[step, 1], arena, frame.ctypes.data)

    kind = types.void(types.int64[:, ::1], types.intp, types.int64[::1], types.intp, types.intp, types.intp)
    return njit(kind, nogil=True, cache=True)(run)
