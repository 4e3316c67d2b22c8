"""Cells as processes of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from hedgerow.executors.child import Child
from hedgerow.executors.schedule import Ending, Task


class Local:
    """At most `jobs` processes at a time, each with its share of the cores."""

    def __init__(self, jobs: int = 1, *, command: str = "") -> None:
        self.slots: int | None = jobs
        self.jobs, self.command = jobs, command

    def start(self, task: Task, tell: Callable[[str], None]) -> Child:
        """Start the process."""
        threads = max(1, (os.cpu_count() or 1) // min(self.jobs, task.beside))
        return Child(task, threads=threads, command=self.command, tell=tell)

    def ended(self, handle: Child) -> Ending | None:
        """Return how it ended; None while it runs."""
        return handle.ended()

    def stop(self, handles: Sequence[Child]) -> None:
        """Interrupt all of them first, then wait for each."""
        for handle in handles:
            handle.ask_to_stop()
        for handle in handles:
            handle.stop()

    def close(self) -> None:
        """Nothing is kept open."""
