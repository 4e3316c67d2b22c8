"""The tables of `hedgerow export` and `hedgerow latency` as a terminal shows them."""

from __future__ import annotations

from collections.abc import Sequence

from hedgerow.report.costs import gains_notes, gains_table, survival_notes, survival_table
from hedgerow.report.words import count
from hedgerow.result import ExportRecord, LatencyRecord


def export_lines(record: ExportRecord) -> list[str]:
    """Return what each form gains, and what is left of robustness where that was looked at."""
    lines = [*aligned(gains_table(record.cost)), *gains_notes(record.cost)]
    if record.survival:
        lines += ["", *aligned(survival_table(record.survival)), *survival_notes(record.survival)]
    return lines


def latency_lines(record: LatencyRecord) -> list[str]:
    """Return the table of `hedgerow latency`, and what it stands on."""
    rows = [["form", "engine", "threads", "batch", "median", "10 to 90 %", "images/s", "runs", "peak memory"]]
    rows += [
        [
            t.form,
            t.engine,
            str(t.threads),
            str(t.batch),
            f"{t.median_ms:.3g} ms",
            f"{t.low_ms:.3g} to {t.high_ms:.3g} ms",
            f"{t.images_per_second:,.0f}",
            str(t.runs),
            f"{t.peak_memory / 1e6:,.0f} MB",
        ]
        for t in record.latencies
    ]
    sizes = "; ".join(f"{form} {count(size)} bytes on disk" for form, size in record.bytes_on_disk.items())
    place = "; ".join(f"{key} {value}" for key, value in record.machine.items())
    return [*aligned(rows), sizes, place, *(f"refused: {what}: {why}" for what, why in record.refused.items())]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines, columns of one width, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
