"""Reading pickles nobody vouches for: a pickle may name any function, so this reader has none to give.

What a pickled array asks for is answered by inert stand-ins that only note their arguments; the array itself
is made afterwards, here, from plain bytes. Anything else a pickle names is refused before it is looked up.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from hedgerow.errors import DataError

DTYPES = frozenset({"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"})


class _Note:
    """The arguments and the state of one object in the pickle."""

    __slots__ = ("arguments", "state")

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Dtype(_Note):
    __slots__ = ()


class _Array(_Note):
    __slots__ = ()


class _Buffered(_Note):
    __slots__ = ()


class _Maker:
    """Stands for a function a pickle may call; has no attributes that a pickle could set."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes the state of a function")


def _latin1(text: str = "", encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
    return text.encode("latin1")


_NUMPY = {
    "multiarray._reconstruct": _Array,
    "numeric._frombuffer": _Buffered,
}
_ALLOWED: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": _Note,
    "numpy.dtype": _Dtype,
    "_codecs.encode": _latin1,  # how Python 3 writes bytes for Python 2
    **{f"{core}.{name}": make for core in ("numpy.core", "numpy._core") for name, make in _NUMPY.items()},
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        wanted = f"{module}.{name}"
        if wanted not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {wanted}, and only arrays of whole numbers are allowed")
        return _Maker(_ALLOWED[wanted])


def read_pickled_dict(content: bytes, where: str, expected: str) -> dict[str, Any]:
    """Return a pickled dict of arrays, lists, numbers, bytes and strings; bytes keys become strings.

    Executes nothing that the pickle names. Raises `DataError`, starting with `where` and ending with
    `expected`, for one that is broken, asks for anything else, or holds no dict.
    """
    try:
        held = _Reader(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(held, dict):
            raise pickle.UnpicklingError(f"it holds a {type(held).__name__}, not a dict")
        return {_text(key): _plain(value) for key, value in held.items()}
    except Exception as error:  # a broken pickle can fail anywhere
        raise DataError(f"{where}: refused or broken pickle ({error}); {expected}") from error


def _text(key: Any) -> str:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        _, shape, dtype, fortran, data = value.state
        return _array(data, dtype, shape, "F" if fortran else "C")
    if isinstance(value, _Buffered):
        return _array(*value.arguments)
    return value


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError("it holds an array without plain bytes")
    code = _text(dtype.arguments[0])
    endian = _text(dtype.state[1]) if dtype.state else "|"
    if code not in DTYPES or endian not in ("<", ">", "|", "="):
        raise pickle.UnpicklingError(f"it holds an array of dtype {endian}{code}")
    flat = np.frombuffer(data, dtype=np.dtype(endian + code))
    return flat.reshape(tuple(int(n) for n in shape), order="F" if _text(order) == "F" else "C")
