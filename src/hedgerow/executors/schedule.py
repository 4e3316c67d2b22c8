"""Which cell runs when: what each one needs, how many at a time, retries, a pause."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hedgerow.errors import CheckpointError

REFUSED = 2  # the status of a run that says what is wrong with it: another try would say the same
PATIENCE = 60.0  # seconds that a file of another machine may take to be seen on this one


@dataclass(frozen=True)
class Task:
    """One `hedgerow resume FOLDER WORDS`: over when `done` is there, to be started when `needs` is.

    `beside` is how many tasks of its kind there are, for the share of the cores that one gets.
    """

    name: str
    folder: Path
    done: Path
    needs: Path | None = None
    words: tuple[str, ...] = ()
    beside: int = 1


@dataclass(frozen=True)
class Ending:
    """How a task ended: 0, an exit status, or less than 0 when it was killed; and the last line it said."""

    status: int
    last: str = ""


class Workers(Protocol):
    """Where tasks run, and how many at a time (None: as many as there are)."""

    slots: int | None

    def start(self, task: Task, tell: Callable[[str], None]) -> Any:
        """Start a task without waiting for it; return what stands for it."""

    def ended(self, handle: Any) -> Ending | None:
        """Return how it ended; None while it runs."""

    def stop(self, handles: Sequence[Any]) -> None:
        """Stop what runs, as Ctrl-C would, and wait for it."""

    def close(self) -> None:
        """Nothing more is to be run."""


class Paused(KeyboardInterrupt):
    """Raised as Ctrl-C is, so that whoever stops cleanly on that does so on a pause."""


@dataclass
class _Board:
    waiting: list[Task]
    running: dict[Task, Any] = field(default_factory=dict)
    failed: list[tuple[Task, Ending]] = field(default_factory=list)
    tries: Counter[Task] = field(default_factory=Counter)
    idle_since: float = field(default_factory=time.monotonic)


def carry_out(
    tasks: Iterable[Task],
    workers: Workers,
    *,
    retries: int = 0,
    tell: Callable[[str], None] = lambda _: None,
    paused: Callable[[], bool] = lambda: False,
    then: Callable[[Task, Ending], Iterable[Task]] = lambda *_: (),
    every: float = 0.1,
) -> list[tuple[Task, Ending]]:
    """Carry out all tasks that are not done; return those that failed, after all others are through.

    A task that ends badly is started again up to `retries` times, and goes on where its run folder stands; not so
    one whose run says itself what is wrong. `then` is told of every task that is through and may name further
    ones. When `paused` says so, or on Ctrl-C, what runs is stopped, and `Paused` or `KeyboardInterrupt` raised.
    """
    board = _Board([task for task in tasks if not task.done.exists()])
    try:
        while board.waiting or board.running:
            if paused():
                raise Paused
            _start(board, workers, tell)
            for task, handle in list(board.running.items()):
                ending = workers.ended(handle)
                if ending is not None:
                    ending = _confirmed(task, ending)
                    del board.running[task]
                    if not _again(board, task, ending, retries, tell):
                        board.waiting += [more for more in then(task, ending) if not more.done.exists()]
            _give_up_on_the_blocked(board)
            time.sleep(every if board.running or board.waiting else 0)
    finally:
        if board.running:
            workers.stop(list(board.running.values()))
    return board.failed


def failure(failed: Sequence[tuple[Task, Ending]]) -> CheckpointError:
    """Return the error that names every failed cell and what it said last."""
    lines = [
        f"cell {task.name} stopped with status {ending.status}: {ending.last}" if ending.status else ending.last
        for task, ending in failed
    ]
    return CheckpointError("\n".join(lines))


def _start(board: _Board, workers: Workers, tell: Callable[[str], None]) -> None:
    for task in list(board.waiting):
        if workers.slots is not None and len(board.running) >= workers.slots:
            return
        if task.needs is None or _there(task.needs):
            board.waiting.remove(task)
            board.tries[task] += 1
            board.running[task] = workers.start(task, tell)


def _there(path: Path) -> bool:
    """Return whether a file exists; the folder is read, since network file systems remember what was not there."""
    try:
        return path.name in os.listdir(path.parent)
    except OSError:
        return False


def _confirmed(task: Task, ending: Ending) -> Ending:
    """Wait until what another machine wrote is seen on this one; whoever reads it next relies on it."""
    until = time.monotonic() + PATIENCE
    while ending.status == 0 and not _there(task.done):
        if time.monotonic() > until:
            return Ending(1, f"it ended well, and {task.done} is not there")
        time.sleep(0.1)
    return ending


def _again(board: _Board, task: Task, ending: Ending, retries: int, tell: Callable[[str], None]) -> bool:
    """Put a task that ended badly back while it has tries left; else note the failure and return False."""
    if ending.status == 0:
        return False
    if ending.status != REFUSED and board.tries[task] <= retries:
        tell(f"{task.name}: lost ({_how(ending)}); goes on, retry {board.tries[task]} of {retries}")
        board.waiting.insert(0, task)
        return True
    board.failed.append((task, ending))
    return False


def _how(ending: Ending) -> str:
    return ending.last if ending.status < 0 and ending.last else f"status {ending.status} {ending.last}".strip()


def _give_up_on_the_blocked(board: _Board) -> None:
    """Fail what waits for a file that nobody is going to write."""
    if board.running or not board.waiting or any(t.needs is None or _there(t.needs) for t in board.waiting):
        board.idle_since = time.monotonic()
    elif board.failed or time.monotonic() - board.idle_since > PATIENCE:
        board.failed += [
            (task, Ending(0, f"cell {task.name} was not started: {task.needs} is not there"))
            for task in board.waiting
        ]
        board.waiting.clear()
