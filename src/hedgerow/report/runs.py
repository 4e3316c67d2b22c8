"""A finished run as the report sees it: the folder read once, and what is asked of it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hedgerow.errors import HedgerowError
from hedgerow.report.gallery import Gallery, read_gallery
from hedgerow.report.words import printable
from hedgerow.result import Measure, Result, load_result

ROBUST_MEASURES = ("autoattack", "worst_case", "pgd")

Epoch = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run folder, read."""

    anchor: str
    label: str
    result: Result
    recipe: str
    epochs: list[Epoch]
    unreadable_lines: int
    gallery: Gallery | None

    @property
    def density(self) -> float | None:
        """Counted kept share of the prunable weights; None if the network has none."""
        counted = self.result.sparsity
        return counted.kept / counted.prunable if counted.prunable else None

    @property
    def is_dense(self) -> bool:
        """True if the counted sparsity is 0."""
        return self.density == 1.0

    @property
    def failed_checks(self) -> list[str]:
        """Names of the integrity checks that did not pass."""
        evaluation = self.result.evaluation
        return [name for name, passed in evaluation.checks.items() if not passed] if evaluation else []

    def measure(self, name: str) -> Measure | None:
        """Return the accuracy of that name, or None if it was not measured on at least one image."""
        evaluation = self.result.evaluation
        found = evaluation.measures.get(name) if evaluation else None
        return found if found is not None and found.n > 0 else None

    def compares_with(self, other: Run) -> bool:
        """True if both were evaluated against the same threat, on the same split, data and architecture."""
        mine, its = self.result.evaluation, other.result.evaluation
        return (
            mine is not None
            and its is not None
            and (mine.threat, mine.split) == (its.threat, its.split)
            and (self.result.dataset, self.result.model) == (other.result.dataset, other.result.model)
        )


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run folders in the order given; same names are told apart by a number.

    Raises `HedgerowError` if there are none, `CheckpointError` if one is unfinished or broken.
    """
    if not folders:
        raise HedgerowError("no runs given: name at least one run folder, one that holds a result.json")
    results = [load_result(Path(f)) for f in folders]
    times = Counter(printable(r.name) for r in results)
    seen: Counter[str] = Counter()
    runs = []
    for i, (given, result) in enumerate(zip(folders, results, strict=True), start=1):
        folder = Path(given) if Path(given).is_dir() else Path(given).parent
        name = printable(result.name)
        seen[name] += 1
        label = f"{name} #{seen[name]}" if times[name] > 1 else name
        epochs, unreadable = read_metrics(folder / "metrics.jsonl")
        gallery = read_gallery(folder / "gallery.safetensors", result.classes)
        recipe = _recipe_text(folder / "recipe.yaml", result)
        runs.append(Run(f"run-{i}", label, result, recipe, epochs, unreadable, gallery))
    return runs


def read_metrics(path: Path) -> tuple[list[Epoch], int]:
    """Return the epochs of a `metrics.jsonl` in training order, and how many lines could not be read.

    An epoch that is there twice (a resumed run) counts as last written. A missing file has no epochs.
    """
    if not path.is_file():
        return [], 0
    rows: dict[tuple[str, int], Epoch] = {}
    unreadable = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            rows[printable(str(row["phase"])), int(row["epoch"])] = row
        except (ValueError, KeyError, TypeError):
            unreadable += 1
    order = list(dict.fromkeys(phase for phase, _ in rows))
    keys = sorted(rows, key=lambda key: (order.index(key[0]), key[1]))
    return [{**rows[key], "phase": key[0], "epoch": key[1]} for key in keys], unreadable


def scalar(row: Epoch, name: str) -> float | None:
    """Return a finite number of an epoch, or None where it was not recorded."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def reference_for(run: Run, runs: Sequence[Run]) -> Run | None:
    """Return the first dense run that `run` can be compared with, or None."""
    return next((r for r in runs if r.is_dense and r.compares_with(run)), None)


def robust_measure(runs: Sequence[Run]) -> str | None:
    """Return the strictest usual robust measure that the most of these runs have, or None."""
    having = {name: sum(run.measure(name) is not None for run in runs) for name in ROBUST_MEASURES}
    best = max(having, key=lambda name: having[name])
    return best if having[best] else None


def _recipe_text(path: Path, result: Result) -> str:
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    return yaml.safe_dump(result.recipe, sort_keys=False, allow_unicode=True)
