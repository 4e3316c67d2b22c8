"""Certified accuracy against the radius, as a plot and as a table."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from hedgerow.report.canvas import FOREGROUND, PALETTE, Plot
from hedgerow.report.words import percent
from hedgerow.result import Certification

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = ("radius", "accuracy", "low", "high", "correct", "n", "seed", "how")


def certified_table(record: Certification) -> str:
    """Return the curve as CSV, shares between 0 and 1, with how each was obtained."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([getattr(at, column) for column in _COLUMNS] for at in record.curve)
    return buffer.getvalue()


def certified_plot(record: Certification, name: str) -> Plot:
    """Draw certified accuracy at the record's radii with its 95 % interval, below the plain accuracy."""
    curve = sorted(record.curve, key=lambda at: at.radius)
    radii = [at.radius for at in curve]
    ((plain_name, plain),) = record.plain.items()
    words = ", ".join(f"{percent(at.accuracy)} at {at.radius:g}" for at in curve)
    label = f"Certified accuracy against the {record.norm} radius, {record.how}: {words}. n = {plain.n}"

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axhline(
            plain.accuracy,
            color=FOREGROUND,
            linewidth=0.9,
            linestyle=(0, (5, 3)),
            label=f"{plain_name}, without proof",
        )
        low, high = [at.low for at in curve], [at.high for at in curve]
        axes.fill_between(radii, low, high, color=PALETTE[0], alpha=0.18, linewidth=0)
        shares = [at.accuracy for at in curve]
        axes.plot(radii, shares, color=PALETTE[0], marker="o", markersize=3.2, linewidth=1.5, label="certified")
        axes.set_xlabel(f"{record.norm} radius, pixel units; n = {plain.n}")
        axes.set_ylabel("Certified accuracy")
        axes.set_xlim(left=0)
        axes.set_ylim(0, min(1.0, 0.02 + 1.08 * max(plain.accuracy, *high)))
        axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:g} %")
        figure.legend(loc="outside upper left", ncols=2, handlelength=1.8)

    return Plot(name, label, (5.0, 3.2), paint)
