"""Keep a finished run's records under results/, without images or weights, and print its table for the README.

    python benchmarks/keep_results.py runs/demo results/digits-demo

Copied: result.json, recipe.yaml and metrics.jsonl of every cell, the comparison table, and the log if given.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

from hedgerow.grid import run_folders
from hedgerow.report import write_tables

RECORDS = ("recipe.yaml", "result.json", "metrics.jsonl")


def keep(run: Path, target: Path, log: Path | None = None) -> Path:
    """Copy the text records of every finished cell of `run` to `target`; return it."""
    cells = run_folders(run)
    shutil.rmtree(target, ignore_errors=True)
    for cell in cells:
        place = target / cell.name if len(cells) > 1 else target
        place.mkdir(parents=True, exist_ok=True)
        for name in RECORDS:
            if (cell / name).exists():
                shutil.copy(cell / name, place / name)
    if run not in cells:
        shutil.copy(run / "recipe.yaml", target / "recipe.yaml")
    if log is not None:
        shutil.copy(log, target / "log.txt")
    if len(cells) > 1:
        write_tables(cells, target)
    return target


def table(folder: Path) -> str:
    """Return the README's Markdown table of `folder`'s comparison.csv: shares as percentages, with intervals."""
    rows = list(csv.DictReader((folder / "comparison.csv").open(encoding="utf-8")))
    lines = ["| network | weights removed | clean | PGD-50 x 5 | AutoAttack |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        shares = [_share(row, name) for name in ("clean", "pgd", "autoattack")]
        cells = [f"{float(row['sparsity_counted']):.2%}", *shares]
        lines.append(f"| {row['run']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _share(row: dict[str, str], name: str) -> str:
    accuracy, low, high = (100 * float(row[f"{name}_{field}"]) for field in ("accuracy", "low", "high"))
    return f"{accuracy:.1f} % [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--log", type=Path)
    arguments = parser.parse_args()
    kept = keep(arguments.run, arguments.target, arguments.log)
    print(table(kept) if (kept / "comparison.csv").exists() else kept)
