"""Memory in huge pages where the system has them: of small ones a network needs more than a core can remember."""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

LINE = 64  # bytes of a cache line
HUGE = 2**21


def huge(size: int) -> NDArray[np.uint8]:
    """Return `size` bytes of zeros that begin at a huge page's border."""
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    region = mmap.mmap(-1, size + HUGE, **private)
    # Refused where the system was built without huge pages.
    with contextlib.suppress(AttributeError, OSError):
        region.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(region, np.uint8)
    begin = -int(whole.ctypes.data) % HUGE
    return whole[begin : begin + size]


class Store:
    """Copies of arrays side by side, which stay where they are as long as the store lives."""

    def __init__(self) -> None:
        self._region, self._used = np.zeros(0, np.uint8), 0
        self._kept: list[NDArray[Any]] = []

    def put(self, array: NDArray[Any]) -> int:
        """Return the address of a copy of `array`."""
        plain = np.ascontiguousarray(array)
        if self._used + plain.nbytes > len(self._region):
            self._region, self._used = huge(max(16 * HUGE, plain.nbytes)), 0
            self._kept.append(self._region)
        place = self._region[self._used : self._used + plain.nbytes]
        place[:] = plain.reshape(-1).view(np.uint8)
        self._used += -(-plain.nbytes // LINE) * LINE
        return int(place.ctypes.data) if plain.nbytes else int(self._region.ctypes.data)
