"""One engine in a process of its own: `python -m hedgerow.engines.worker ENGINE FILE THREADS`.

It answers each line of JSON on its input with one on its output. An engine's process imports what that engine
needs and nothing more, so that the memory it reports is the engine's.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hedgerow.engines import ENGINES
from hedgerow.engines.base import Floats, Loaded
from hedgerow.errors import HedgerowError

_FEWEST = 5


def sampled(compute: Loaded, images: Floats, seconds: float) -> list[float]:
    """Return how long each run took, seconds: 5 runs at least, and then as many as fit into `seconds`."""
    taken: list[float] = []
    begin = time.perf_counter()
    while len(taken) < _FEWEST or time.perf_counter() - begin < seconds:
        before = time.perf_counter()
        compute(images)
        taken.append(time.perf_counter() - before)
    return taken


def peak_memory() -> int:
    """Return the most memory that this process has held, in bytes."""
    try:  # what getrusage says on Linux may be the largest of the parent process
        status = Path("/proc/self/status").read_text(encoding="ascii")
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else 1024 * largest


def answers(name: str, path: str, threads: int, questions: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Answer that the file is loaded, then each question: how long runs of a batch take, or the peak memory."""
    begin = time.perf_counter()
    compute = ENGINES[name].load(Path(path), threads)
    yield {"load_seconds": time.perf_counter() - begin}
    dice = np.random.default_rng(0)
    for line in questions:
        question = json.loads(line)
        if "batch" not in question:
            yield {"peak_memory": peak_memory()}
            continue
        images = dice.random((question["batch"], *compute.shape), dtype=np.float32)
        yield {"seconds": sampled(compute, images, question["seconds"])}


def main() -> None:
    """Answer until the input ends; an error made for the user is an answer too."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)  # what libraries print must not stand among the answers
        try:
            for answer in answers(sys.argv[1], sys.argv[2], int(sys.argv[3]), iter(sys.stdin.readline, "")):
                print(json.dumps(answer), file=out, flush=True)
        except HedgerowError as error:
            print(json.dumps({"refused": str(error)}), file=out, flush=True)


if __name__ == "__main__":
    main()
