"""Several methods, sparsities and seeds on one recipe: every cell a run, one table and one plot of them all."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hedgerow.errors import RecipeError
from hedgerow.files import write_text
from hedgerow.grid import run, run_folders
from hedgerow.pruners import PRUNERS
from hedgerow.recipe import Recipe, apply, parse_recipe
from hedgerow.report.means import means_plot
from hedgerow.report.words import measure_name
from hedgerow.result import Result, load_result

MEASURES = ("clean", "pgd", "autoattack", "worst_case")


@dataclass(frozen=True)
class Mean:
    """Mean and sample standard deviation over seeds of one accuracy (0 to 1); the spread of one seed is 0."""

    mean: float
    spread: float
    seeds: int


@dataclass(frozen=True)
class Cell:
    """One method at one counted sparsity, over its seeds."""

    method: str
    asked: float
    counted: float
    n: int
    measures: dict[str, Mean]


def run_comparison(
    recipe: Recipe,
    path: Path,
    *,
    methods: Sequence[str],
    sparsities: Sequence[str],
    seeds: int = 1,
    command: str = "",
    tell: Callable[[str], None] | None = None,
    jobs: int = 1,
) -> Path:
    """Run every method at every sparsity with seeds 0..N-1; return the Markdown table it writes.

    Each seed is a grid in `path/seed-N`, on its own dense network; finished cells are never run again.
    `RecipeError` lists every cell that cannot be run before the first one is.
    """
    chosen = list(PRUNERS) if list(methods) == ["all"] else [m.strip() for m in methods]
    grid = {"pruning.sparsity": [s.strip() for s in sparsities], "pruning.method": chosen}
    first = {"method": chosen[0], "sparsity": grid["pruning.sparsity"][0]}
    grids = []
    for seed in range(seeds):
        section = recipe.pruning.model_dump(mode="json") if recipe.pruning else {}
        raw = {**recipe.dump(), "pruning": {**first, **_shared(section)}}
        grids.append(parse_recipe(apply(raw, {"seed": seed, "grid": grid}), recipe.name))
    folders = []
    for seed, one in enumerate(grids):
        run(one, path / f"seed-{seed}", command=command, tell=tell, jobs=jobs)
        folders += run_folders(path / f"seed-{seed}")
    return write_summary([load_result(folder) for folder in folders], path)


def _shared(section: dict[str, object]) -> dict[str, object]:
    """Keep what every method understands; options of one method would be refused by the others."""
    return {key: value for key, value in section.items() if key in ("distribution", "granularity")}


def write_summary(results: Sequence[Result], path: Path) -> Path:
    """Write summary.csv, summary.md and summary.svg of finished runs to `path`; return the Markdown file."""
    cells = summarise(results)
    if not cells:
        raise RecipeError(str(path), ["no evaluated run to summarise"])
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [name for name in MEASURES if any(name in cell.measures for cell in cells)]
    columns = [f"{name}_{part}" for name in names for part in ("mean", "spread")]
    writer.writerow(["method", "sparsity_asked", "sparsity_counted", "n", "seeds", *columns])
    for cell in cells:
        values = [getattr(cell.measures[name], part) for name in names for part in ("mean", "spread")]
        seeds = cell.measures[names[0]].seeds
        writer.writerow([cell.method, cell.asked, cell.counted, cell.n, seeds, *values])
    write_text(path / "summary.csv", buffer.getvalue())
    robust = "autoattack" if "autoattack" in names else "worst_case"
    lines = {
        method: [
            (1 - c.counted, c.measures[robust].mean, c.measures[robust].spread)
            for c in cells
            if c.method == method
        ]
        for method in dict.fromkeys(c.method for c in cells)
    }
    write_text(path / "summary.svg", means_plot(lines, f"{measure_name(robust)} accuracy"))
    return write_text(path / "summary.md", _markdown(cells, names, results))


def summarise(results: Sequence[Result]) -> list[Cell]:
    """Return one cell per method and asked sparsity, dense first, then by sparsity and method."""
    groups: dict[tuple[float, str], list[Result]] = {}
    for result in results:
        if result.evaluation is not None:
            groups.setdefault((result.sparsity.asked, result.method), []).append(result)
    cells = []
    for (asked, method), runs in sorted(groups.items()):
        records = [run.evaluation.measures for run in runs if run.evaluation]
        cells.append(
            Cell(
                method=method,
                asked=asked,
                counted=sum(run.sparsity.counted for run in runs) / len(runs),
                n=records[0]["clean"].n,
                measures={name: _mean([r[name].accuracy for r in records]) for name in records[0]},
            )
        )
    return cells


def _mean(values: Sequence[float]) -> Mean:
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1)
    return Mean(mean, math.sqrt(variance), len(values))


def _markdown(cells: Sequence[Cell], names: Sequence[str], results: Sequence[Result]) -> str:
    head = ["method", "weights removed", *(name.replace("_", " ") for name in names)]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for cell in cells:
        scores = [f"{100 * m.mean:.1f} ± {100 * m.spread:.1f} %" for m in (cell.measures[n] for n in names)]
        lines.append(f"| {cell.method} | {cell.counted:.2%} | {' | '.join(scores)} |")
    seeds = max(m.seeds for cell in cells for m in cell.measures.values())
    first, evaluation = next((r, r.evaluation) for r in results if r.evaluation)
    how = [f"- **{name.replace('_', ' ')}**: {evaluation.measures[name].how}" for name in names]
    note = (
        f"{first.dataset}, {first.model}, n = {cells[0].n} test images, "
        f"mean ± standard deviation over {seeds} seed{'s' if seeds > 1 else ''}."
    )
    return "\n".join([*lines, "", note, "", *how]) + "\n"
