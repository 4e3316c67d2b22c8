"""The accuracy table as files: `comparison.csv` for programs, `comparison.md` for notes."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence
from pathlib import Path

from hedgerow.files import write_text
from hedgerow.report.runs import Run, read_runs, reference_for
from hedgerow.report.tables import Cell, difference, files_of, footnotes, headings, measures_of, table_rows

Value = str | int | float | None


def write_tables(runs: Sequence[Path], folder: Path) -> tuple[Path, Path]:
    """Write `comparison.csv` (raw numbers, unknown left empty) and `comparison.md`; return both paths.

    Raises `HedgerowError` if no runs are given, `CheckpointError` if one is unfinished or broken.
    """
    read = read_runs(runs)
    folder = Path(folder)
    return (
        write_text(folder / "comparison.csv", csv_table(read)),
        write_text(folder / "comparison.md", markdown_table(read)),
    )


def csv_table(runs: Sequence[Run]) -> str:
    """Return the table as CSV: a row per run, shares between 0 and 1."""
    records = [_record(run, runs) for run in runs]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def markdown_table(runs: Sequence[Run]) -> str:
    """Return the table as Markdown, with how each column was obtained under it."""
    columns = ["Run", "Method", *headings(runs)]
    lines = [_line(columns), _line(["---"] * 2 + ["---:"] * (len(columns) - 2))]
    for row in table_rows(runs):
        mark = " \u26a0" if row.failed else ""
        lines.append(_line([_safe(row.label) + mark, _safe(row.method), *map(_cell, row.cells)]))
    notes = [f"- **{_safe(note.column)}**: {_safe(note.text)}" for note in footnotes(runs)]
    failed = [
        f"- \u26a0 **{_safe(run.label)}** failed: {_safe(', '.join(run.failed_checks))}; do not rely on it."
        for run in runs
        if run.failed_checks
    ]
    return "\n".join([*lines, "", *notes, *failed]) + "\n"


def _record(run: Run, runs: Sequence[Run]) -> dict[str, Value]:
    result, dense = run.result, reference_for(run, runs)
    evaluation = result.evaluation
    record: dict[str, Value] = {
        "run": run.label,
        "method": result.method,
        "dataset": result.dataset,
        "model": result.model,
        "threat": evaluation.threat if evaluation else None,
        "split": evaluation.split if evaluation else None,
        "sparsity_asked": result.sparsity.asked,
        "sparsity_counted": 1 - run.density if run.density is not None else None,
        "weights_kept": result.sparsity.kept,
        "weights_prunable": result.sparsity.prunable,
    }
    for name in measures_of(runs):
        m = run.measure(name)
        for field in ("accuracy", "low", "high", "correct", "n", "seed", "how"):
            record[f"{name}_{field}"] = getattr(m, field) if m else None
        record[f"{name}_minus_dense"] = difference(run, dense, name)
    for kind in files_of(runs):
        record[f"bytes_{kind}"] = result.bytes_on_disk.get(kind)
    return {**record, "failed_checks": "; ".join(run.failed_checks)}


def _cell(cell: Cell) -> str:
    return _safe(f"{cell.text} ({cell.note})" if cell.note else cell.text)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _safe(text: str) -> str:
    plain = html.escape(text, quote=False).replace("\\", "\\\\").replace("|", "\\|")
    return " ".join(plain.split())
