"""Cells as tasks of a Ray cluster, on a file system that all of its machines share."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hedgerow.errors import MissingPackageError, TeamError
from hedgerow.executors.child import Child
from hedgerow.executors.schedule import Ending, Task

_GRACE = 60.0  # seconds for all cells to stop in
_ANSWER = 10.0  # seconds for a cluster to answer in
_LOST = -9


class RayTasks:
    """Each cell takes `cpus` and `gpus` of one machine of the cluster, fractions of a device included.

    `address` is that of a cluster (`host:6379`, `ray://host:10001`, `auto`); None starts Ray on this machine, or
    takes the cluster that this process is connected to. Raises `MissingPackageError` without Ray, `TeamError`
    when there is no cluster at the address, or when no machine of this one is large enough for a cell.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        cpus: float = 1.0,
        gpus: float = 0.0,
        jobs: int | None = None,
        command: str = "",
    ) -> None:
        if cpus < 0 or gpus < 0 or cpus + gpus == 0:
            raise TeamError(f"--cpus {cpus:g} --gpus {gpus:g}: both from 0 on, and one of them above 0")
        if any(amount > 1 and amount != int(amount) for amount in (cpus, gpus)):
            raise TeamError(f"--cpus {cpus:g} --gpus {gpus:g}: Ray divides one device; above 1 give whole ones")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise MissingPackageError("Ray is not installed: pip install hedgerow[sweep]") from error
        self.ray: Any = ray
        self.slots, self.command = jobs, command
        self.own = not ray.is_initialized()
        if self.own:
            _connect(ray, address)
        self.warning = self._too_small(cpus, gpus, refuse=address is None and self.own)
        self._remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_carry_out)
        self.threads = max(1, int(cpus))

    def _too_small(self, cpus: float, gpus: float, *, refuse: bool) -> str:
        machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if any(m.get("CPU", 0) >= cpus and m.get("GPU", 0) >= gpus for m in machines):
            return ""
        most = max((m.get("CPU", 0), m.get("GPU", 0)) for m in machines) if machines else (0, 0)
        problem = (
            f"--cpus {cpus:g} --gpus {gpus:g}: no machine of the Ray cluster has as much; the largest has "
            f"{most[0]:g} CPUs and {most[1]:g} GPUs"
        )
        if refuse:
            self.close()
            raise TeamError(problem)
        return f"{problem}. Ray waits for one that has"

    def start(self, task: Task, tell: Callable[[str], None]) -> Any:
        """Hand the cell to Ray, which starts it when there is room; what it says, Ray prints here."""
        if self.warning:
            tell(self.warning)
            self.warning = ""
        given = replace(task, folder=task.folder.resolve())
        return self._remote.options(name=task.name).remote(given, self.threads, self.command, str(Path.cwd()))

    def ended(self, handle: Any) -> Ending | None:
        """Return how it ended, less than 0 when its worker or machine was lost; None while it runs or waits."""
        done, _ = self.ray.wait([handle], timeout=0)
        if not done:
            return None
        try:
            ending: Ending = self.ray.get(handle)
            return ending
        except self.ray.exceptions.RayError as error:
            first_line = str(error).strip().partition("\n")[0]
            return Ending(_LOST, f"{type(error).__name__}: {first_line}")

    def stop(self, handles: Sequence[Any]) -> None:
        """Cancel all tasks, and kill the workers of those that do not stop in time."""
        for handle in handles:
            self.ray.cancel(handle)
        _, left = self.ray.wait(list(handles), num_returns=len(handles), timeout=_GRACE)
        for handle in left:
            self.ray.cancel(handle, force=True)

    def close(self) -> None:
        """Leave the cluster, or end it if it was started here."""
        if self.own:
            self.ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    local = {} if address or os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
    try:
        host, colon, port = (address or "").rpartition(":")
        if colon and "/" not in host:  # Ray itself would go on trying for minutes
            socket.create_connection((host, int(port)), timeout=_ANSWER).close()
        ray.init(address=address, logging_level="error", **local)
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise TeamError(
            f"no Ray cluster at {address or 'this machine'}: {' '.join(str(error).split())[:300]}. Start one with "
            "`ray start --head`, or leave --address out to use this machine alone"
        ) from error


def _carry_out(task: Task, threads: int, command: str, place: str) -> Ending:
    """Run the cell in a process of its own, and stop it when Ray cancels this; runs on a worker."""
    if not task.folder.is_dir() or not Path(place).is_dir():
        what = task.folder if Path(place).is_dir() else place
        return Ending(1, f"{what} is not seen on {os.uname().nodename}: all machines must share the file system")
    child = Child(task, threads=threads, command=command, tell=_say, place=Path(place))
    try:
        while (ending := child.ended()) is None:
            time.sleep(0.05)
        return ending
    finally:
        child.stop()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
