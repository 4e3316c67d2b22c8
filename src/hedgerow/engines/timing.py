"""How long files take under their engines, measured side by side so that all meet the same noise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

import numpy as np

from hedgerow.engines import ENGINES
from hedgerow.errors import HedgerowError, ModelError
from hedgerow.result import Latency

_ROUNDS = 3
_WARM_UP = 0.1


@dataclass(frozen=True)
class Subject:
    """A form of a network: its name, its file, and the engine that is to run it."""

    form: str
    engine: str
    path: Path


@dataclass(frozen=True)
class Plan:
    """Batch sizes, thread counts, and seconds of runs for each of them (beside the warm-up).

    Raises `ModelError` for anything below 1, and for a time of 0.
    """

    batches: tuple[int, ...] = (1, 64)
    threads: tuple[int, ...] = (1,)
    seconds: float = 1.0

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise ModelError(f"batches are {list(self.batches)}; give sizes of 1 or more, such as 1,64")
        if not self.threads or min(self.threads) < 1:
            raise ModelError(f"threads are {list(self.threads)}; give counts of 1 or more, such as 1,2")
        if not 0 < self.seconds < float("inf"):
            raise ModelError(f"seconds is {self.seconds}; give a time above 0")


@dataclass
class Timings:
    """What was measured, and why the rest was not, by `form under engine`."""

    latencies: list[Latency] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def measure(
    subjects: Sequence[Subject], plan: Plan, *, tell: Callable[[str], None] = lambda text: None
) -> Timings:
    """Time every subject in a process of its own, with every batch and thread count of the plan.

    The processes of one thread count are there together and take turns in three rounds, one running at a time. A
    batch is warmed up before its first round. Images are random pixels. Engines that cannot run their file are
    named in `refused` and hinder nobody. Raises `UnknownNameError` for an engine nobody registered.
    """
    for subject in subjects:
        ENGINES[subject.engine]
    timings = Timings()
    for threads in plan.threads:
        with ExitStack() as stack:
            workers = _ready(subjects, threads, stack, timings)
            for batch in plan.batches:
                tell(f"timing batches of {batch}, threads {threads}: {len(workers)} files")
                for worker in workers:
                    worker.taken[batch] = []
                    worker.ask({"batch": batch, "seconds": _WARM_UP})
                for _ in range(_ROUNDS):
                    for worker in workers:
                        question = {"batch": batch, "seconds": plan.seconds / _ROUNDS}
                        worker.taken[batch] += worker.ask(question)["seconds"]
            for worker in workers:
                timings.latencies += worker.records(threads)
    return timings


def _ready(subjects: Sequence[Subject], threads: int, stack: ExitStack, timings: Timings) -> list[_Worker]:
    workers = []
    for subject in subjects:
        worker = stack.enter_context(_Worker(subject, threads))
        try:
            worker.load_seconds = worker.answer()["load_seconds"]
            workers.append(worker)
        except HedgerowError as error:
            timings.refused[f"{subject.form} under {subject.engine}"] = str(error)
    return workers


class _Worker:
    """The process of one subject: questions in, answers out."""

    def __init__(self, subject: Subject, threads: int) -> None:
        self.subject, self.load_seconds = subject, 0.0
        self.taken: dict[int, list[float]] = {}
        words = [subject.engine, str(subject.path), str(threads)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hedgerow.engines.worker", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"},
        )
        self.questions, self.answers = cast(IO[str], self.process.stdin), cast(IO[str], self.process.stdout)

    def __enter__(self) -> _Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.process.kill()
        self.process.communicate()

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Put a question and return its answer; `ModelError` when the process refuses it or ends."""
        with suppress(BrokenPipeError):  # it ended, and gives no answer either
            self.questions.write(json.dumps(question) + "\n")
            self.questions.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Return the next answer."""
        line = self.answers.readline()
        if not line:
            raise ModelError(
                f"{self.subject.path}: the process of the engine {self.subject.engine!r} ended (code "
                f"{self.process.wait()}); what it wrote stands above. Out of memory? Try a smaller --batch"
            )
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise ModelError(answer["refused"])
        return answer

    def records(self, threads: int) -> list[Latency]:
        """Return a record for each batch size."""
        peak = self.ask({})["peak_memory"]
        found = []
        for batch, taken in self.taken.items():
            low, median, high = (1000 * float(q) for q in np.quantile(taken, [0.1, 0.5, 0.9]))
            found.append(
                Latency(
                    form=self.subject.form,
                    engine=self.subject.engine,
                    threads=threads,
                    batch=batch,
                    median_ms=median,
                    low_ms=low,
                    high_ms=high,
                    runs=len(taken),
                    images_per_second=1000 * batch / median,
                    load_seconds=self.load_seconds,
                    peak_memory=peak,
                )
            )
        return found
