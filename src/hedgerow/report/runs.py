"""A finished run as the report sees it: the folder read once, and what is asked of it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from hedgerow.checks import Check
from hedgerow.errors import CheckpointError, HedgerowError
from hedgerow.report.gallery import Gallery, read_gallery
from hedgerow.report.words import printable
from hedgerow.result import AtEps, Certification, Measure, Result, load_result

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
    certifications: list[Certification] = field(default_factory=list)

    @property
    def curve(self) -> list[AtEps]:
        """Accuracies at several radii, smallest first; empty where none were measured."""
        return self.result.evaluation.curve if self.result.evaluation else []

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
    def checks(self) -> dict[str, Check]:
        """The integrity checks that were run, by name."""
        return self.result.evaluation.checks if self.result.evaluation else {}

    @property
    def failed_checks(self) -> list[str]:
        """Names of the integrity checks that failed; one that only warns is not among them."""
        return [name for name, check in self.checks.items() if check.failed]

    def named(self, check: str) -> str:
        """Return a check as people read it, with its number."""
        number = printable(self.checks[check].number)
        return printable(check).replace("_", " ") + (f" - {number}" if number else "")

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


def read_runs(folders: Sequence[Path], *, galleries: bool = True) -> list[Run]:
    """Read run folders in the order given, with their pictures or without; same names are told apart.

    Raises `HedgerowError` if there are none, `CheckpointError` if one is unfinished or broken.
    """
    if not folders:
        raise HedgerowError("no runs given: name at least one run folder, one that holds a result.json")
    results = [load_result(Path(f)) for f in folders]
    labels = labels_of(results)
    runs = []
    for i, (given, label, result) in enumerate(zip(folders, labels, results, strict=True), start=1):
        folder = Path(given) if Path(given).is_dir() else Path(given).parent
        epochs, unreadable = read_metrics(folder / "metrics.jsonl")
        gallery = read_gallery(folder / "gallery.safetensors", result.classes) if galleries else None
        recipe = _recipe_text(folder / "recipe.yaml", result)
        certified = read_certifications(folder)
        runs.append(Run(f"run-{i}", label, result, recipe, epochs, unreadable, gallery, certified))
    return runs


def labels_of(results: Sequence[Result]) -> list[str]:
    """Return the names of results; same names are told apart by their seeds, or else by a number."""
    names = [printable(r.name) for r in results]
    seeds = [
        f"{name}, seed {printable(str(r.recipe.get('seed')))}" for name, r in zip(names, results, strict=True)
    ]
    if len(set(seeds)) == len(seeds):
        return [seed if names.count(name) > 1 else name for name, seed in zip(names, seeds, strict=True)]
    numbered = [f"{name} #{names[: i + 1].count(name)}" for i, name in enumerate(names)]
    return [number if names.count(name) > 1 else name for name, number in zip(names, numbered, strict=True)]


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


def read_certifications(folder: Path) -> list[Certification]:
    """Return the certifications in a run folder, by their names; `CheckpointError` for a broken one."""
    files = sorted([*folder.glob("certify.json"), *folder.glob("certify-*/certify.json")])
    try:
        return [Certification.model_validate_json((at := file).read_text(encoding="utf-8")) for file in files]
    except (ValidationError, UnicodeDecodeError, OSError) as error:
        raise CheckpointError(
            f"{at}: not a certification ({str(error).splitlines()[0]}); delete it, or make it again with "
            "hedgerow certify"
        ) from error


def scalar(row: Epoch, name: str) -> float | None:
    """Return a finite number of an epoch, or None where it was not recorded."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def reference_for(run: Run, runs: Sequence[Run]) -> Run | None:
    """Return the dense run that `run` can be compared with, one of its own seed before others, or None."""
    dense = [r for r in runs if r.is_dense and r.compares_with(run)]
    seed = run.result.recipe.get("seed")
    return next((r for r in dense if r.result.recipe.get("seed") == seed), dense[0] if dense else None)


def robust_measure(runs: Sequence[Run]) -> str | None:
    """Return the strictest usual robust measure that the most of these runs have, or None."""
    having = {name: sum(run.measure(name) is not None for run in runs) for name in ROBUST_MEASURES}
    best = max(having, key=lambda name: having[name])
    return best if having[best] else None


def _recipe_text(path: Path, result: Result) -> str:
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    return yaml.safe_dump(result.recipe, sort_keys=False, allow_unicode=True)
