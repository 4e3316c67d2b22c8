"""The values of the non-zeros: float32 bit for bit, float16, or int8 with a scale per output channel."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hedgerow.compact.positions import Bytes, deflate, inflate
from hedgerow.errors import CheckpointError

ValueCode = Literal["float32", "float16", "int8"]
VALUE_CODES: tuple[str, ...] = get_args(ValueCode)
Floats = NDArray[np.float32]
_LIMIT = 127


def planes_of(values: NDArray[np.generic]) -> Bytes:
    """Return `[n]` numbers as byte planes `[bytes, n]`, the most significant first.

    A float's bits are rotated by one, so that its first plane is the exponent, which has few distinct values,
    and the sign joins the fraction, which does not compress anyhow.
    """
    width = values.dtype.itemsize
    words = values.view(f"<u{width}")
    if values.dtype.kind == "f":
        words = (words << 1) | (words >> (8 * width - 1))
    return words.view(np.uint8).reshape(-1, width).T[::-1].copy()


def from_planes(planes: Bytes, kind: str) -> NDArray[np.generic]:
    """Return the `[n]` numbers of `planes_of`, of the dtype `kind`."""
    width = np.dtype(kind).itemsize
    words = planes[::-1].T.copy().view(f"<u{width}").reshape(-1)
    if np.dtype(kind).kind == "f":
        words = (words >> 1) | (words << (8 * width - 1))
    return words.view(np.dtype(kind).newbyteorder("<"))


def quantise(values: Floats, rows: NDArray[np.int64], count: int) -> tuple[NDArray[np.int8], Floats]:
    """Return int8 values and `[count]` float32 scales: value ~ scale[row] * int8, the largest of a row at 127."""
    largest = np.zeros(count, dtype=np.float32)
    np.maximum.at(largest, rows, np.abs(values))
    scales = (largest / _LIMIT).astype(np.float32)
    steps = values / np.where(scales > 0, scales, np.float32(1))[rows]
    return np.clip(np.rint(steps), -_LIMIT, _LIMIT).astype(np.int8), scales


def pack(values: NDArray[np.generic]) -> tuple[bytes, list[int]]:
    """Return the planes one after the other, each deflated where that is smaller, and their lengths.

    A negative length marks a plane that was deflated.
    """
    parts, lengths = [], []
    for plane in planes_of(values):
        plain = plane.tobytes()
        packed = deflate(plain)
        smaller = len(packed) < len(plain)
        parts.append(packed if smaller else plain)
        lengths.append(-len(packed) if smaller else len(plain))
    return b"".join(parts), lengths


def unpack(packed: bytes, lengths: list[int], *, kind: str, count: int, what: str) -> NDArray[np.generic]:
    """Return the `count` numbers that `pack` packed; `CheckpointError` when the bytes are not that."""
    if kind not in VALUE_CODES:
        raise CheckpointError(f"{what}: values are {kind!r}; known: {', '.join(VALUE_CODES)}")
    if len(lengths) != np.dtype(kind).itemsize or sum(map(abs, lengths)) != len(packed):
        raise CheckpointError(f"{what}: its value planes are not as long as it declares; the file was altered")
    planes, start = [], 0
    for length in lengths:
        part = packed[start : start + abs(length)]
        planes.append(inflate(part, count, what) if length < 0 else part)
        start += abs(length)
    if any(len(plane) != count for plane in planes):
        raise CheckpointError(f"{what}: does not hold {count} values; the file was altered")
    return from_planes(np.frombuffer(b"".join(planes), dtype=np.uint8).reshape(len(planes), count), kind)
