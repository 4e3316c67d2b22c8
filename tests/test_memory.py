"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from hedgerow.memory import return_freed_memory

HELD = """
import sys, torch
from pathlib import Path
from hedgerow.memory import return_freed_memory
if sys.argv[1] == "yes":
    return_freed_memory()
def held():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
torch.ones(7_000_000)                                     # after this, glibc alone keeps blocks of its size
before = held()
many = [torch.ones(4_000_000) for _ in range(20)]         # 305 MiB
between = many[1::2]
del many
del between[:-1]                                          # the last block stays
print((held() - before) / 1024)
"""


def kept(asked: str) -> float:
    words = [sys.executable, "-c", HELD, asked]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_holes_between_blocks_are_given_back() -> None:
    assert kept("no") > 200
    assert kept("yes") < 40


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    return_freed_memory()
