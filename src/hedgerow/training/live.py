"""Listeners that send the numbers of every epoch to TensorBoard and to MLflow, beside the metrics file."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from hedgerow.errors import HedgerowError, MissingPackageError
from hedgerow.files import write_text
from hedgerow.pruners import Progress
from hedgerow.team import team
from hedgerow.training.listeners import read_metrics
from hedgerow.training.plan import Plan
from hedgerow.training.setting import Listener, Metrics
from hedgerow.training.state import Standing

LogName = Literal["tensorboard", "mlflow"]
_PLACE = ("phase", "epoch", "epochs")


def numbers(metrics: Metrics) -> dict[str, float]:
    """Return what of an epoch is a number and not its place."""
    return {k: float(v) for k, v in metrics.items() if k not in _PLACE and isinstance(v, int | float)}


class TensorBoardLog:
    """Event files in `tensorboard/PHASE` of the run folder, one TensorBoard run per phase, steps are epochs.

    A phase that goes on is written anew from `metrics`, the run's metrics file, so that no epoch is there twice.
    Raises `MissingPackageError` without TensorBoard.
    """

    def __init__(self, folder: Path, metrics: Path) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise MissingPackageError("TensorBoard is not installed: pip install hedgerow[log]") from error
        self.folder, self.metrics = folder / "tensorboard", metrics
        self._open: Callable[[Path], Any] = SummaryWriter
        self._writer: Any = None

    def start(self, phase: str, plan: Plan, standing: Standing, steps: int) -> None:
        """Write the epochs that are kept, dated as if training had not been interrupted."""
        if not team().first:
            return
        place = self.folder / phase
        for old in place.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = self._open(place)
        kept = [m for m in read_metrics(self.metrics) if m["phase"] == phase and m["epoch"] <= standing.epoch]
        now, ahead = time.time(), sum(m["seconds"] for m in kept)
        for metrics in kept:
            ahead -= metrics["seconds"]
            self._write(metrics, now - ahead)

    def step(self, progress: Progress, images: int, loss: Tensor) -> None:
        """Nothing is written per step."""

    def epoch(self, metrics: Metrics) -> None:
        """Write one epoch, to be seen at once; close the file after the last one."""
        if self._writer is None:
            return
        self._write(metrics, time.time())
        self._writer.flush()
        if metrics["epoch"] == metrics["epochs"]:
            self._writer.close()
            self._writer = None

    def _write(self, metrics: Metrics, when: float) -> None:
        for name, value in numbers(metrics).items():
            self._writer.add_scalar(name, value, metrics["epoch"], walltime=when)
        if "alarm" in metrics:
            self._writer.add_text("alarm", metrics["alarm"], metrics["epoch"], walltime=when)


class MlflowLog:
    """One MLflow run per run folder, its metrics named `PHASE/NAME`.

    Where to, is MLflow's to say: `MLFLOW_TRACKING_URI`, and `MLFLOW_EXPERIMENT_NAME` or `hedgerow`. The run's
    number is kept in the run folder, and an epoch that is there already is not sent again. A server that fails
    later stops nothing: the epochs are sent with the next one. Raises `MissingPackageError` without MLflow.
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise MissingPackageError("MLflow is not installed: pip install mlflow") from error
        self.file, self.name, self.settings = folder / "mlflow-run.txt", name, settings
        self._make: Callable[[], Any] = MlflowClient
        self._client: Any = None
        self._unsent: list[Metrics] = []

    def start(self, phase: str, plan: Plan, standing: Standing, steps: int) -> None:
        """Open the folder's run, or go on with it; find out which epochs of the phase it has."""
        if not team().first:
            return
        from mlflow.exceptions import MlflowException

        try:
            self._client = self._client or self._make()
            if not self.file.exists():
                write_text(self.file, self._new_run())
            self.run = self.file.read_text(encoding="utf-8").strip()
            self._client.update_run(self.run, status="RUNNING")
            there = self._client.get_metric_history(self.run, f"{phase}/loss")
        except MlflowException as error:
            raise HedgerowError(
                f"MLflow cannot keep this run ({' '.join(str(error).split())[:300]}). Look at MLFLOW_TRACKING_URI "
                f"and {self.file}, or leave mlflow out of the recipe's log"
            ) from error
        self._sent = max((point.step for point in there), default=0)

    def step(self, progress: Progress, images: int, loss: Tensor) -> None:
        """Nothing is sent per step."""

    def epoch(self, metrics: Metrics) -> None:
        """Send the epochs that are not there yet; the run is called finished after the last one of a phase."""
        if self._client is None:
            return
        from mlflow.exceptions import MlflowException

        self._unsent += [metrics] if metrics["epoch"] > self._sent else []
        try:
            while self._unsent:
                self._send(self._unsent[0])
                del self._unsent[0]
            if metrics["epoch"] == metrics["epochs"]:
                self._client.set_terminated(self.run)
        except MlflowException as error:
            first_line = str(error).partition("\n")[0]
            warnings.warn(f"MLflow takes no metrics ({first_line}); tried again with the next epoch", stacklevel=2)

    def _new_run(self) -> str:
        from mlflow.entities import Param

        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "hedgerow")
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        run: str = self._client.create_run(number, run_name=self.name).info.run_id
        flat = [Param(key, str(value)[:500]) for key, value in flattened(self.settings)]
        for i in range(0, len(flat), 100):  # as many as MLflow takes at a time
            self._client.log_batch(run, params=flat[i : i + 100])
        return run

    def _send(self, metrics: Metrics) -> None:
        from mlflow.entities import Metric

        now, phase = round(1000 * time.time()), metrics["phase"]
        points = [Metric(f"{phase}/{k}", v, now, metrics["epoch"]) for k, v in numbers(metrics).items()]
        self._client.log_batch(self.run, metrics=points)


def flattened(values: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """Return `(a.b, value)` of nested mappings; what is null or empty is left out."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        place = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            found += flattened(value, place)
        elif value not in (None, "", []):
            found.append((place, value))
    return found


def open_logs(
    names: Sequence[LogName], folder: Path, *, metrics: Path, settings: Mapping[str, Any]
) -> tuple[Listener, ...]:
    """Return the named listeners of a run folder; `MissingPackageError` says which package one of them needs."""
    makers: dict[str, Callable[[], Listener]] = {
        "tensorboard": lambda: TensorBoardLog(folder, metrics),
        "mlflow": lambda: MlflowLog(folder, str(settings.get("name", folder.name)), settings),
    }
    return tuple(makers[name]() for name in dict.fromkeys(names))
