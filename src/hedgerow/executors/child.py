"""One `hedgerow resume` in a process of its own, which ends when the process that started it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

from hedgerow.executors.schedule import Ending, Task

_GRACE = 30.0  # seconds to stop in, before it is killed


class Child:
    """The running process; every line that it says goes to `tell`."""

    def __init__(
        self, task: Task, *, threads: int, command: str, tell: Callable[[str], None], place: Path | None = None
    ) -> None:
        module = "hedgerow.executors.bound"
        words = [sys.executable, "-m", module, str(os.getpid()), "resume", str(task.folder), *task.words]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HEDGEROW_COMMAND": command}
        self.process = subprocess.Popen(
            words,
            env=environment,
            cwd=place,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the one who started it, who passes it on once
        )
        self.last = ""
        self._reader = Thread(target=self._listen, args=(tell,), daemon=True)
        self._reader.start()

    def _listen(self, tell: Callable[[str], None]) -> None:
        for line in self.process.stderr or ():
            self.last = line.decode(errors="replace").rstrip()
            tell(self.last)

    def ended(self) -> Ending | None:
        """Return how it ended; None while it runs."""
        status = self.process.poll()
        if status is None:
            return None
        self._reader.join(timeout=5)
        if self.process.stderr and not self._reader.is_alive():
            self.process.stderr.close()
        return Ending(status, self.last)

    def ask_to_stop(self) -> None:
        """Interrupt it as Ctrl-C would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def stop(self) -> None:
        """Interrupt it, and kill it if it does not end in time; return when it has ended."""
        self.ask_to_stop()
        try:
            self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.ended()
