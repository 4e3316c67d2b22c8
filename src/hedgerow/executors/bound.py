"""`python -m hedgerow.executors.bound PID WORDS`: the command `hedgerow WORDS`, killed when its parent PID dies.

A cell that outlived a lost worker would hold its run folder against the one that is to go on with it.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def bind(parent: int) -> None:
    """Have this process killed with its parent, where the system can (Linux); end it if that is gone already."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def hear_interrupts() -> None:
    """Let SIGINT interrupt this process, whatever it inherited: Ray blocks it, a shell ignores it after `&`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


if __name__ == "__main__":
    bind(int(sys.argv[1]))
    hear_interrupts()
    sys.argv = ["hedgerow", *sys.argv[2:]]
    runpy.run_module("hedgerow", run_name="__main__", alter_sys=True)
