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
from hedgerow.grid import run
from hedgerow.pruners import PRUNERS
from hedgerow.recipe import Recipe, parse_recipe
from hedgerow.report.differences import differences, differences_csv, differences_markdown
from hedgerow.report.means import means_plot
from hedgerow.report.words import measure_name
from hedgerow.result import Result, load_result

SPARSITIES = ("0.9", "0.95", "0.99")
MEASURES = ("clean", "pgd", "autoattack", "worst_case")


@dataclass(frozen=True)
class Mean:
    """Mean and sample standard deviation over seeds of one accuracy (0 to 1); the spread of one seed is 0."""

    mean: float
    spread: float
    seeds: int


@dataclass(frozen=True)
class Cell:
    """One method at one counted sparsity, over its seeds; `method` names the granularity unless it is weights."""

    method: str
    asked: float
    counted: float
    n: int
    measures: dict[str, Mean]


def run_comparison(
    recipe: Recipe,
    path: Path,
    *,
    methods: Sequence[str] = (),
    sparsities: Sequence[str] = (),
    seeds: int = 1,
    command: str = "",
    tell: Callable[[str], None] | None = None,
    jobs: int = 1,
) -> Path:
    """Run every method at every sparsity with seeds 0..N-1; return the Markdown table it writes.

    Without methods and sparsities the recipe's own grid is run, or, where it has none, all methods at 90, 95 and
    99 %. Each seed is a grid in `path/seed-N`, on its own dense network. Finished cells are never run again: the
    same folder takes further methods, sparsities and seeds, and its table shows all that is there.
    `RecipeError` lists every cell that cannot be run before the first one is.
    """
    grid: list[dict[str, list[str]]] = list(recipe.grid)
    section = recipe.pruning.model_dump(mode="json") if recipe.pruning else {}
    if methods or sparsities or not grid:
        chosen = [m.strip() for m in methods] or ["all"]
        chosen = list(PRUNERS) if chosen == ["all"] else chosen
        asked = [s.strip() for s in sparsities] or list(SPARSITIES)
        grid = [{"pruning.sparsity": asked, "pruning.method": chosen}]
        section = {"method": chosen[0], "sparsity": asked[0], **_shared(section)}
    raw = {**recipe.dump(), "pruning": section or None, "grid": grid}
    grids = [parse_recipe({**raw, "seed": seed}, recipe.name) for seed in range(seeds)]
    for seed, one in enumerate(grids):
        run(one, path / f"seed-{seed}", command=command, tell=tell, jobs=jobs)
    return write_summary(finished_results(path), path)


def finished_results(path: Path) -> list[Result]:
    """Return the results of all finished cells of all seeds in the folder of a comparison."""
    files = sorted(path.glob("seed-*/*/result.json"))
    return [load_result(file) for file in files]


def _shared(section: dict[str, object]) -> dict[str, object]:
    """Keep what every method understands; options of one method would be refused by the others."""
    return {key: value for key, value in section.items() if key in ("distribution", "granularity")}


def write_summary(results: Sequence[Result], path: Path) -> Path:
    """Write summary.csv, summary.md and summary.svg of finished runs to `path`; return the Markdown file.

    The Markdown says which differences are real, and differences.csv has their counts seed by seed.
    """
    cells = summarise(results)
    if not cells:
        raise RecipeError(str(path), ["no evaluated run to summarise"])
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    others = [name for name in cells[0].measures if name not in (*MEASURES, "verified")]
    names = [n for n in (*MEASURES[:3], *others, "worst_case", "verified") if all(n in c.measures for c in cells)]
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
    named = [(label(result), result) for result in results]
    robust_ones = differences(named)
    write_text(path / "differences.csv", differences_csv([*differences(named, "clean"), *robust_ones]))
    table = differences_markdown(robust_ones)
    return write_text(path / "summary.md", _markdown(cells, names, results) + (f"\n{table}" if table else ""))


def summarise(results: Sequence[Result]) -> list[Cell]:
    """Return one cell per method and asked sparsity, dense first, then by sparsity and method."""
    groups: dict[tuple[float, str], list[Result]] = {}
    for result in results:
        if result.evaluation is not None:
            groups.setdefault((result.sparsity.asked, label(result)), []).append(result)
    cells = []
    for (asked, method), runs in sorted(groups.items()):
        records = [run.evaluation.measures for run in runs if run.evaluation]
        cells.append(
            Cell(
                method=method,
                asked=asked,
                counted=sum(run.sparsity.counted for run in runs) / len(runs),
                n=records[0]["clean"].n,
                measures={
                    name: _mean([r[name].accuracy for r in records])
                    for name in records[0]
                    if all(name in r for r in records)
                },
            )
        )
    return cells


def label(result: Result) -> str:
    """Return the method of a result, with what it removes together: `hydra`, `hydra (channel)`."""
    groups = result.sparsity.granularity
    return result.method if groups == "weight" else f"{result.method} ({groups})"


def _mean(values: Sequence[float]) -> Mean:
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1)
    return Mean(mean, math.sqrt(variance), len(values))


def _markdown(cells: Sequence[Cell], names: Sequence[str], results: Sequence[Result]) -> str:
    head = ["method", "asked", "weights removed", *(name.replace("_", " ") for name in names)]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for cell in cells:
        scores = [f"{100 * m.mean:.1f} ± {100 * m.spread:.1f} %" for m in (cell.measures[n] for n in names)]
        lines.append(f"| {cell.method} | {_percent(cell.asked)} | {cell.counted:.2%} | {' | '.join(scores)} |")
    seeds = max(m.seeds for cell in cells for m in cell.measures.values())
    first, evaluation = next((r, r.evaluation) for r in results if r.evaluation)
    how = [f"- **{name.replace('_', ' ')}**: {evaluation.measures[name].how}" for name in names]
    note = (
        f"{first.dataset}, {first.model}, n = {cells[0].n} test images, "
        f"mean ± standard deviation over {seeds} seed{'s' if seeds > 1 else ''}."
    )
    return "\n".join([*lines, "", note, "", *how]) + "\n"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"
