"""Where the non-zeros of a tensor are, in as few bytes as they need: a deflated bitmask, or Rice-coded gaps."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from hedgerow.errors import CheckpointError

Bytes = NDArray[np.uint8]
_BYTE = 8
_MOST_LOW_BITS = 40


def deflate(plain: bytes) -> bytes:
    """Return `plain` deflated (zlib, level 9)."""
    return zlib.compress(plain, 9)


def inflate(packed: bytes, most: int, what: str) -> bytes:
    """Return the inflated bytes; `CheckpointError` when they are damaged or more than `most`."""
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(packed, most + 1)
    except zlib.error as error:
        raise CheckpointError(f"{what}: the compressed bytes are damaged ({error}); get the file again") from error
    if len(plain) > most or not stream.eof or stream.unused_data:
        raise CheckpointError(f"{what}: holds more or fewer bytes than it declares; get the file again")
    return plain


def rice_parameter(positions: NDArray[np.int64]) -> int:
    """Return how many low bits of every gap are best written plainly: those of the shortest code."""
    gaps = np.diff(positions, prepend=-1) - 1
    likely = int(max(1.0, gaps.mean() if len(gaps) else 0.0)).bit_length()
    around = range(max(0, likely - 3), likely + 1)
    return min(around, key=lambda low: len(gaps) * (low + 1) + int((gaps >> low).sum()))


def rice_encode(positions: NDArray[np.int64], parameter: int) -> bytes:
    """Return the gaps between ascending positions, Rice-coded: all quotients in unary, then all remainders.

    A gap g has the quotient g >> parameter (so many ones, then a zero) and `parameter` low bits: within a few
    percent of the entropy of random places.
    """
    gaps = np.diff(positions, prepend=-1) - 1
    ends = np.cumsum((gaps >> parameter) + 1)
    unary = np.ones(int(ends[-1]) if len(ends) else 0, dtype=np.uint8)
    unary[ends - 1] = 0
    low = (gaps[:, None] >> np.arange(parameter)) & 1
    return np.packbits(np.concatenate([unary, low.astype(np.uint8).reshape(-1)])).tobytes()


def rice_decode(coded: bytes, parameter: int, count: int) -> NDArray[np.int64]:
    """Return the `count` ascending positions of `rice_encode`; `ValueError` when there are fewer."""
    bits = np.unpackbits(np.frombuffer(coded, dtype=np.uint8))
    ends = np.flatnonzero(bits == 0)[:count]
    if len(ends) < count:
        raise ValueError(f"{len(ends)} of {count} positions")
    quotients = np.diff(ends, prepend=-1) - 1
    start = int(ends[-1]) + 1 if count else 0
    low = bits[start : start + count * parameter]
    if len(low) < count * parameter or len(bits) - start - len(low) >= _BYTE:
        raise ValueError(f"{len(bits)} bits for {count} positions")
    weights = np.left_shift(1, np.arange(parameter))
    remainders = low.reshape(count, parameter).astype(np.int64) @ weights
    return np.cumsum((quotients << parameter) + remainders + 1) - 1


def encode_positions(mask: NDArray[np.bool_]) -> tuple[str, bytes]:
    """Return the True places of a flat `mask` in the smaller of the two codes, with its name.

    The codes: `bits`, or `rice-K` with the parameter K.
    """
    positions = np.flatnonzero(mask)
    parameter = rice_parameter(positions)
    bits, rice = deflate(np.packbits(mask).tobytes()), rice_encode(positions, parameter)
    return (f"rice-{parameter}", rice) if len(rice) < len(bits) else ("bits", bits)


def decode_positions(code: str, packed: bytes, *, size: int, count: int, what: str) -> NDArray[np.int64]:
    """Return the `count` ascending positions, each below `size`; `CheckpointError` when they are not that."""
    name, _, parameter = str(code).partition("-")
    if name == "bits":
        plain = np.frombuffer(inflate(packed, (size + _BYTE - 1) // _BYTE, what), dtype=np.uint8)
        positions = np.flatnonzero(np.unpackbits(plain))
    elif name == "rice" and parameter.isdecimal() and int(parameter) < _MOST_LOW_BITS:
        try:
            positions = rice_decode(packed, int(parameter), count)
        except ValueError as error:
            raise CheckpointError(f"{what}: its positions are cut short or altered ({error})") from error
    else:
        raise CheckpointError(
            f"{what}: positions are coded as {code!r}, not as bits or rice; a newer version made it"
        )
    if len(positions) != count or (count and positions[-1] >= size):
        raise CheckpointError(f"{what}: its positions are not {count} below {size}; the file was altered")
    return positions
