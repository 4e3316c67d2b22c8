"""Tables and plots as files: for programs, for notes, for papers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hedgerow.files import write_atomically, write_text
from hedgerow.report.content import Content
from hedgerow.report.runs import Run, read_runs, reference_for
from hedgerow.report.table import Value, file_name
from hedgerow.report.tables import accuracy_table, difference, files_of, measures_of

FILES = "report-files"
"""The folder beside a page that holds its plots and tables as files."""

COMPARISON = ("comparison.csv", "comparison.md", "comparison.tex")


def write_tables(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Write the accuracy table as `comparison.csv` (raw numbers, unknown left empty), `.md` and `.tex`.

    Returns the paths. Raises `HedgerowError` if no runs are given, `CheckpointError` if one is unfinished or
    broken.
    """
    read = read_runs(runs)
    table = accuracy_table(read)
    texts = (csv_table(read), table.markdown(), table.latex())
    return [write_text(Path(folder) / name, text) for name, text in zip(COMPARISON, texts, strict=True)]


def write_files(content: Content, folder: Path) -> list[Path]:
    """Write every plot as SVG and PNG to `folder/plots`, every other table as CSV, Markdown and LaTeX to
    `folder/tables`; return the paths.
    """
    written = []
    for plot in content.plots:
        path = folder / "plots" / file_name(plot.name)
        written.append(write_text(path.with_name(f"{path.name}.svg"), plot.svg()))
        write = partial(Path.write_bytes, data=plot.png())
        written.append(write_atomically(path.with_name(f"{path.name}.png"), write))
    for table in content.tables:
        texts = {"csv": table.csv(), "md": table.markdown(), "tex": table.latex()}
        name = file_name(table.name)
        written += [write_text(folder / "tables" / f"{name}.{kind}", text) for kind, text in texts.items()]
    return written


def csv_table(runs: Sequence[Run]) -> str:
    """Return the accuracy table as CSV: a row per run, shares between 0 and 1."""
    records = [_record(run, runs) for run in runs]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


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
