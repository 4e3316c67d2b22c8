"""Several methods, sparsities and seeds on one recipe: every cell a run, one table and one plot of them all."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hedgerow.errors import RecipeError
from hedgerow.files import write_text
from hedgerow.grid import DENSE, run
from hedgerow.pruners import PRUNERS
from hedgerow.recipe import Recipe, parse_recipe
from hedgerow.report import FILES, write_report
from hedgerow.report.content import Summary
from hedgerow.report.differences import differences, differences_csv, differences_markdown, differences_table
from hedgerow.report.means import means_plot
from hedgerow.report.table import Cell as Shown
from hedgerow.report.table import Table, markdown_line
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
    """Run every method at every sparsity with seeds 0..N-1; return the Markdown table beside the page it writes.

    Without methods and sparsities the recipe's own grid is run, or, where it has none, all methods at 90, 95 and
    99 %. Each seed is a grid in `path/seed-N`, on its own dense network. Finished cells are never run again: the
    same folder takes further methods, sparsities and seeds, and its table shows all that is there.
    `RecipeError` lists every cell that cannot be run before the first one is.
    """
    product: dict[str, list[Any]] = {}
    if methods or sparsities or not recipe.grid:
        chosen = [m.strip() for m in methods] or ["all"]
        product["pruning.sparsity"] = [s.strip() for s in sparsities] or list(SPARSITIES)
        product["pruning.method"] = list(PRUNERS) if chosen == ["all"] else chosen
    grids = grids_of(recipe, product, seeds=seeds)
    return run_grids(grids, path, command=command, tell=tell, jobs=jobs)


def grids_of(recipe: Recipe, product: Mapping[str, Sequence[Any]], *, seeds: int) -> list[Recipe]:
    """Return the recipe with seeds 0..N-1 over the product's values, or over its own grid where that is empty.

    Where methods differ, the recipe's section on pruning keeps only what all of them understand. `RecipeError`
    lists every cell that cannot be run.
    """
    grid = [{key: list(values) for key, values in product.items()}] if product else list(recipe.grid)
    section = recipe.pruning.model_dump(mode="json") if recipe.pruning else {}
    if "pruning.method" in product:
        sparsity = product.get("pruning.sparsity", [section.get("sparsity")])[0]
        section = {"method": product["pruning.method"][0], "sparsity": sparsity, **_shared(section)}
    raw = {**recipe.dump(), "pruning": section or None, "grid": grid}
    return [parse_recipe({**raw, "seed": seed}, recipe.name) for seed in range(seeds)]


def run_grids(
    grids: Sequence[Recipe],
    path: Path,
    *,
    command: str = "",
    tell: Callable[[str], None] | None = None,
    jobs: int = 1,
) -> Path:
    """Run one grid per seed in `path/seed-N`, and write the page of all; return the Markdown table beside it."""
    for seed, one in enumerate(grids):
        run(one, path / f"seed-{seed}", command=command, tell=tell, jobs=jobs)
    write_page(path, title=grids[0].name, command=command)
    return path / "summary.md"


def finished_results(path: Path) -> list[Result]:
    """Return the results of all finished cells of all seeds in the folder of a comparison."""
    return [load_result(folder) for folder in _finished(path)]


def _finished(path: Path) -> list[Path]:
    return [file.parent for file in sorted(path.glob("seed-*/*/result.json"))]


def write_page(path: Path, *, title: str, command: str = "") -> Path:
    """Write the summary of a comparison's folder and its page, with every plot and table as files beside it."""
    folders = _finished(path)
    summary = write_summary(finished_results(path), path)
    pages = sorted({f"{folder.parent.name}/report.html" for folder in folders})
    ordered = sorted(folders, key=lambda folder: (folder.name != DENSE, folder.name, folder.parent.name))
    return write_report(
        ordered,
        path / "report.html",
        title=title,
        command=command or None,
        summary=replace(summary, pages=pages),
        files=path / FILES,
    )


def _shared(section: dict[str, object]) -> dict[str, object]:
    """Keep what every method understands; options of one method would be refused by the others."""
    return {key: value for key, value in section.items() if key in ("distribution", "granularity")}


def write_summary(results: Sequence[Result], path: Path) -> Summary:
    """Write summary.csv, summary.md and summary.svg of finished runs to `path`; return what they say.

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
    plot = means_plot(lines, f"{measure_name(robust)} accuracy")
    write_text(path / "summary.svg", plot.svg())
    named = labelled(results)
    robust_ones = differences(named)
    write_text(path / "differences.csv", differences_csv([*differences(named, "clean"), *robust_ones]))
    means = means_table(cells, names, results)
    table = differences_markdown(robust_ones)
    write_text(path / "summary.md", _markdown(means, cells, results) + (f"\n{table}" if table else ""))
    tables = [means, *([differences_table(robust_ones)] if robust_ones else [])]
    return Summary(headline(cells, robust), tables, plot, [])


def headline(cells: Sequence[Cell], measure: str) -> str:
    """Return the sentence on the largest asked sparsity: its best method by the mean, beside the dense network."""
    most = max(cell.asked for cell in cells)
    best = max((cell for cell in cells if cell.asked == most), key=lambda cell: cell.measures[measure].mean)
    dense = next((cell for cell in cells if cell.asked == 0), None)
    of = f"{measure_name(measure)} accuracy"
    if dense is None or best is dense:
        return f"{best.method}: {of} {_spread(best.measures[measure])}"
    beside = _spread(dense.measures[measure])
    at = f"{100 * best.counted:.1f} % of the weights removed"
    return f"{best.method}, {at}: {of} {_spread(best.measures[measure])}, dense {beside}"


def _spread(m: Mean) -> str:
    return f"{100 * m.mean:.1f} ± {100 * m.spread:.1f} %" if m.seeds > 1 else f"{100 * m.mean:.1f} %"


def summarise(results: Sequence[Result]) -> list[Cell]:
    """Return one cell per method and asked sparsity, dense first, then by sparsity and method."""
    groups: dict[tuple[float, str], list[Result]] = {}
    for name, result in labelled(results):
        if result.evaluation is not None:
            groups.setdefault((result.sparsity.asked, name), []).append(result)
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


def labelled(results: Sequence[Result]) -> list[tuple[str, Result]]:
    """Pair each result with its label, or with the name of its cell where more than one cell would have the label.

    So it is in a grid over more than methods and sparsities: its cells are no seeds of one another.
    """
    cells: dict[tuple[float, str], set[str]] = {}
    for result in results:
        cells.setdefault((result.sparsity.asked, label(result)), set()).add(result.name)
    alone = {key for key, names in cells.items() if len(names) == 1}
    return [(label(r) if (r.sparsity.asked, label(r)) in alone else r.name, r) for r in results]


def _mean(values: Sequence[float]) -> Mean:
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1)
    return Mean(mean, math.sqrt(variance), len(values))


def means_table(cells: Sequence[Cell], names: Sequence[str], results: Sequence[Result]) -> Table:
    """Return a row per cell with the mean and spread of the measures `names`, and how these were obtained."""
    evaluation = next(r.evaluation for r in results if r.evaluation)
    ways = {name: evaluation.measures[name].how for name in names}
    rows = [
        [
            Shown(cell.method),
            Shown(_percent(cell.asked), value=cell.asked),
            Shown(f"{cell.counted:.2%}", value=cell.counted),
            *(
                Shown(_spread(m), f"{ways[n]}; seeds: {m.seeds}", value=m.mean)
                for n, m in ((n, cell.measures[n]) for n in names)
            ),
        ]
        for cell in cells
    ]
    headings = ["method", "asked", "weights removed", *(name.replace("_", " ") for name in names)]
    notes = [f"{name.replace('_', ' ')}: {how}" for name, how in ways.items()]
    return Table("summary", "Mean accuracy ± standard deviation over seeds", headings, rows, notes=notes)


def _markdown(table: Table, cells: Sequence[Cell], results: Sequence[Result]) -> str:
    lines = [markdown_line(table.headings), f"|---|{'---:|' * (len(table.headings) - 1)}"]
    lines += [markdown_line([cell.text for cell in row]) for row in table.rows]
    seeds = max(m.seeds for cell in cells for m in cell.measures.values())
    first = next(r for r in results if r.evaluation)
    over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    note = f"{first.dataset}, {first.model}, n = {cells[0].n} test images, {over}."
    how = [f"- **{name}**: {way}" for name, _, way in (line.partition(": ") for line in table.notes)]
    return "\n".join([*lines, "", note, "", *how]) + "\n"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"
