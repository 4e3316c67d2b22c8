"""Keep a finished run's records under results/, without images or weights, and print its table for the README.

    python benchmarks/keep_results.py runs/demo results/digits-demo
    python benchmarks/keep_results.py runs/compare-digits-methods results/digits-methods

Copied: result.json, recipe.yaml and metrics.jsonl of every finished cell, the tables, and the log if given. Cells
of the same dense network that are kept already, and that this run does not have, stay; a comparison's tables have
them all. With --base also the project's own dense networks, so that a comparison copied back to runs/ goes on.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

from hedgerow.compare import finished_results, write_summary
from hedgerow.grid import run_folders
from hedgerow.report import write_tables

RECORDS = ("recipe.yaml", "result.json", "metrics.jsonl")


def keep(run: Path, target: Path, *, log: Path | None = None, base: bool = False) -> Path:
    """Copy the text records of every finished cell of `run`, a run, a grid or a comparison; return `target`.

    Raises `FileExistsError`, with nothing changed, when cells of other dense networks are kept there.
    """
    seeds = sorted(run.glob("seed-*"))
    for grid in seeds or [run]:
        _refuse_others(grid, target / grid.name if seeds else target)
    for grid in seeds:
        _keep_grid(grid, target / grid.name, base=base)
    if seeds:
        write_summary(finished_results(target), target)
    else:
        cells = _keep_grid(run, target, base=base)
        if len(cells) > 1:
            write_tables(cells, target)
    if log is not None:
        shutil.copy(log, target / "log.txt")
    return target


def _refuse_others(run: Path, target: Path) -> None:
    here = {cell.name for cell in run_folders(run)}
    others = {file.parent.name for file in target.glob("*/result.json")} - here
    given, kept = ((folder / "dense" / "result.json") for folder in (run, target))
    if others and not (given.exists() and kept.exists() and given.read_bytes() == kept.read_bytes()):
        raise FileExistsError(
            f"{target} keeps {', '.join(sorted(others))}, which {run} does not have, and another dense network: "
            "keep this run elsewhere, or remove that folder first"
        )


def _keep_grid(run: Path, target: Path, *, base: bool) -> list[Path]:
    cells = run_folders(run)
    for cell in cells:
        place = target if run in cells else target / cell.name
        place.mkdir(parents=True, exist_ok=True)
        for name in RECORDS:
            if (cell / name).exists():
                shutil.copy(cell / name, place / name)
    if run not in cells:
        shutil.copy(run / "recipe.yaml", target / "recipe.yaml")
    network = run / "dense" / "checkpoints" / "pretrain.safetensors"
    if base and network.exists():
        (target / "dense" / "checkpoints").mkdir(exist_ok=True)
        for kept in network.parent.glob("pretrain*"):
            shutil.copy(kept, target / "dense" / "checkpoints" / kept.name)
    return cells


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
    parser.add_argument("--base", action="store_true", help="keep the dense networks too")
    arguments = parser.parse_args()
    kept = keep(arguments.run, arguments.target, log=arguments.log, base=arguments.base)
    print(table(kept) if (kept / "comparison.csv").exists() else kept)
