"""Who listens to training: the metrics file and the progress display."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from hedgerow.files import write_text
from hedgerow.pruners import Progress as Position
from hedgerow.team import team
from hedgerow.training.plan import Plan
from hedgerow.training.setting import Metrics
from hedgerow.training.state import Standing


class MetricsFile:
    """One JSON object per finished epoch in `metrics.jsonl`; no epoch twice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, phase: str, plan: Plan, standing: Standing, steps: int) -> None:
        """Drop what was written after the state that the phase goes on from."""
        kept = [m for m in read_metrics(self.path) if m["phase"] != phase or m["epoch"] <= standing.epoch]
        write_text(self.path, "".join(json.dumps(m) + "\n" for m in kept))

    def step(self, progress: Position, images: int, loss: Tensor) -> None:
        """Nothing is written per step."""

    def epoch(self, metrics: Metrics) -> None:
        """Append one line."""
        if team().first:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(metrics) + "\n")


def read_metrics(path: Path) -> list[Metrics]:
    """Return the epochs written so far; a last line cut short by a crash is left out."""
    metrics = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            metrics.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return metrics


class Display:
    """A progress bar on a terminal, one line per epoch elsewhere."""

    def __init__(self, title: str = "", console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stderr, soft_wrap=True, quiet=not team().first)
        self.title = title
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.scores = ""

    def start(self, phase: str, plan: Plan, standing: Standing, steps: int) -> None:
        """Open the phase's bar where the phase stands."""
        self.phase, self.images, self.since = phase, 0, time.monotonic()
        self.scores, self.alarmed = "", False
        if not self.console.is_terminal:
            return
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[scores]}"),
            TimeRemainingColumn(),
            console=self.console,
        )
        done = standing.epoch * steps + standing.step
        self.task = self.bar.add_task(
            f"{self.title} {phase}", total=plan.epochs * steps, completed=done, scores=""
        )
        self.bar.start()

    def step(self, progress: Position, images: int, loss: Tensor) -> None:
        """Move the bar; the loss is read every tenth step, to wait for the device seldom."""
        self.images += images
        if self.bar is None or self.task is None:
            return
        spent = time.monotonic() - self.since
        self.bar.advance(self.task)
        if progress.epoch_ends or progress.step % 10 == 0:
            speed = self.images / max(spent, 1e-9)
            self.bar.update(self.task, scores=f"loss {loss.item():.3f} {self.scores} {speed:,.0f} img/s")

    def epoch(self, metrics: Metrics) -> None:
        """Show validation scores, and an alarm once a phase; close the bar after the last epoch."""
        if "clean" in metrics:
            self.scores = f"clean {metrics['clean']:.1%} robust {metrics['robust']:.1%}"
        if self.bar is None:
            self.console.print(
                f"{self.title} {metrics['phase']} {metrics['epoch']}/{metrics['epochs']}: loss "
                f"{metrics['loss']:.4f} {self.scores} {metrics['images_per_second']:,.0f} img/s",
                highlight=False,
            )
        elif metrics["epoch"] == metrics["epochs"]:
            self.close()
        if "alarm" in metrics and not self.alarmed:
            self.alarmed = True
            self.say(f"ALARM {self.title} {metrics['phase']}, epoch {metrics['epoch']}: {metrics['alarm']}")

    def say(self, text: str) -> None:
        """Print one line beside the bar."""
        self.console.print(text, highlight=False)

    def close(self) -> None:
        """Take the bar down."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
