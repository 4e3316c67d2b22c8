"""What this process holds of the machine's memory."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3  # the number by which glibc's mallopt(3) knows it
_BLOCK = 4 * 2**20  # bytes


def return_freed_memory() -> None:
    """Give blocks of 4 MiB and more back to the system as soon as they are freed, from now on (glibc).

    Otherwise glibc learns to keep blocks of up to 32 MiB for later, and what lies between those in use is lost: a
    training step of activations can hold twice what it needs. Each new block then costs a pass of the system over
    its pages, which narrow networks feel. Nothing happens with another C library.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _BLOCK)
