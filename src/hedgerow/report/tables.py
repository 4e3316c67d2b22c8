"""The accuracy table: one row per run, every number with how it was obtained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hedgerow.report.runs import Run, reference_for
from hedgerow.report.table import Cell, Table
from hedgerow.report.words import MEASURES, TIMES, count, measure_name, percent, points, printable, size
from hedgerow.result import Measure

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Footnote:
    """How the numbers of one column were obtained."""

    column: str
    text: str


def measures_of(runs: Sequence[Run]) -> list[str]:
    """Return the names of all accuracies any run holds, the usual four first and always."""
    others = {name for r in runs if r.result.evaluation for name in r.result.evaluation.measures}
    return [*MEASURES, *sorted(others - set(MEASURES))]


def files_of(runs: Sequence[Run]) -> list[str]:
    """Return the kinds of file whose bytes any run counted, in the order recorded."""
    return list(dict.fromkeys(kind for run in runs for kind in run.result.bytes_on_disk))


def headings(runs: Sequence[Run]) -> list[str]:
    """Return the column headings after run and method."""
    return [
        "Sparsity asked",
        "Sparsity counted",
        "Kept weights",
        *map(measure_name, measures_of(runs)),
        *(f"{printable(kind).replace('_', ' ').capitalize()} on disk" for kind in files_of(runs)),
    ]


def accuracy_table(runs: Sequence[Run]) -> Table:
    """Return the table with a row per run, and how each column was obtained as its notes."""
    names, kinds = measures_of(runs), files_of(runs)
    rows = [
        [
            _name_cell(run),
            Cell(printable(run.result.method)),
            *_sparsity_cells(run),
            *(accuracy_cell(run, reference_for(run, runs), name) for name in names),
            *(_bytes_cell(run, kind) for kind in kinds),
        ]
        for run in runs
    ]
    caption = "Each run's accuracy with its 95 % interval, what was removed, and what is left on disk."
    failed = [
        f"{run.label} failed: {', '.join(map(run.named, run.failed_checks))}; do not rely on its accuracies"
        for run in runs
        if run.failed_checks
    ]
    notes = [f"{note.column}: {note.text}" for note in footnotes(runs)]
    return Table("comparison", caption, ["Run", "Method", *headings(runs)], rows, words=2, notes=[*notes, *failed])


def _name_cell(run: Run) -> Cell:
    failed = ", ".join(map(run.named, run.failed_checks))
    hover = f"failed: {failed}" if failed else ""
    return Cell(run.label, hover, "failed check" if failed else "", suspect=bool(failed), anchor=run.anchor)


def obtained(m: Measure) -> str:
    """Return how an accuracy was obtained, in one line."""
    return f"{printable(m.how)}; {count(m.correct)} of {count(m.n)} images correct, seed {m.seed}"


def accuracy_text(m: Measure) -> str:
    """Return an accuracy with its 95 % interval: `57.2 % [52.0, 62.2]`."""
    return f"{percent(m.accuracy)} [{100 * m.low:.1f}, {100 * m.high:.1f}]"


def difference(run: Run, dense: Run | None, name: str) -> float | None:
    """Return a run's accuracy minus that of its dense reference, None where one of them is unknown."""
    mine = run.measure(name)
    reference = dense.measure(name) if dense else None
    return mine.accuracy - reference.accuracy if mine and reference else None


def accuracy_cell(run: Run, dense: Run | None, name: str) -> Cell:
    """Return the cell of one accuracy, with the difference to the dense reference under it."""
    evaluation = run.result.evaluation
    m = run.measure(name)
    if m is None:
        if evaluation is None:
            return Cell("not evaluated", "the run holds no evaluation")
        empty = evaluation.measures.get(name)
        return Cell(NOT_MEASURED, f"{empty.how}; no images (n = 0)" if empty else "not part of the evaluation")
    apart = difference(run, dense, name)
    note = ""
    if dense is run:
        note = "the reference"
    elif apart is not None:
        note = f"{points(apart)} to dense"
    return Cell(accuracy_text(m), obtained(m), note, bool(run.failed_checks))


def footnotes(runs: Sequence[Run]) -> list[Footnote]:
    """Return how each column was obtained, runs that share a way named together."""
    sparsity = "removed share of the prunable weights, as asked and as counted in the finished network"
    interval = "95 % Wilson score interval of the accuracy, for the number of images given"
    notes = [Footnote("Sparsity", sparsity), Footnote("Brackets", interval)]
    for name in measures_of(runs):
        ways: dict[str, list[str]] = {}
        for run in runs:
            if (m := run.measure(name)) is not None:
                ways.setdefault(f"{printable(m.how)}; n = {count(m.n)}, seed {m.seed}", []).append(run.label)
        said = [way if len(ways) == 1 else f"{', '.join(who)}: {way}" for way, who in ways.items()]
        notes.append(Footnote(measure_name(name), ". ".join(said) if said else f"{NOT_MEASURED} in any run"))
    references = ", ".join(dict.fromkeys(r.label for run in runs if (r := reference_for(run, runs))))
    if references:
        text = f"difference in percentage points (pp) to {references}, counted sparsity 0, same data and threat"
        notes.append(Footnote("To dense", text))
    if files_of(runs):
        notes.append(Footnote("On disk", "size of the files written, counted in bytes; 1 MB = 1,000,000 bytes"))
    return notes


def _sparsity_cells(run: Run) -> list[Cell]:
    counted = run.result.sparsity
    kept = f"{count(counted.kept)} of {count(counted.prunable)} prunable weights kept"
    how = f"counted in the finished network: {kept}"
    known = run.density is not None
    return [
        Cell(percent(counted.asked), "as asked in the recipe"),
        Cell(percent(1 - (run.density or 0.0)) if known else "nothing prunable", how),
        Cell(count(counted.kept), how, f"of {count(counted.prunable)}"),
    ]


def _bytes_cell(run: Run, kind: str) -> Cell:
    sizes = run.result.bytes_on_disk
    if kind not in sizes:
        return Cell("not recorded", "the run holds no size of this kind")
    dense = next((n for k, n in sizes.items() if k.startswith("dense")), None)
    smaller = dense / sizes[kind] if dense and sizes[kind] and not kind.startswith("dense") else None
    note = f"{smaller:.1f}{TIMES} smaller" if smaller and smaller >= 1.05 else ""
    return Cell(size(sizes[kind]), f"{count(sizes[kind])} bytes on disk", note)
