"""Training curves of one run: loss and validation accuracy over the epochs of all phases."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from hedgerow.report.canvas import FOREGROUND, MARKERS, PALETTE, Plot
from hedgerow.report.runs import Run, scalar
from hedgerow.report.words import percent, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES = {"clean": "clean", "robust": "robust"}


def phase_spans(run: Run) -> list[tuple[str, int, int]]:
    """Return name, first and last position (from 1, over all phases) of every phase recorded."""
    spans, position = [], 0
    for phase, rows in groupby(run.epochs, key=lambda row: str(row["phase"])):
        length = len(list(rows))
        spans.append((phase, position + 1, position + length))
        position += length
    return spans


def selected_positions(run: Run) -> list[int]:
    """Return the positions (from 1, over all phases) of the epochs whose weights were kept."""
    chosen = {(p.name, p.selected_epoch) for p in run.result.phases if p.selected_epoch is not None}
    return [i for i, row in enumerate(run.epochs, start=1) if (row["phase"], row["epoch"]) in chosen]


def training_plot(run: Run) -> Plot | None:
    """Draw loss above, validation accuracies below, phases shaded; None if no epoch was recorded."""
    if not run.epochs:
        return None

    def paint(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.4])
        _curve(top, run, "loss", "training loss", 3)
        for i, (key, name) in enumerate(CURVES.items()):
            _curve(bottom, run, key, f"{name} (validation)", i)
        for axes in (top, bottom):
            _phases(axes, run)
        _phase_names(top, run)
        top.set_ylabel("Loss")
        top.tick_params(axis="x", length=0)
        bottom.set_ylabel("Accuracy")
        bottom.set_ylim(0, 1)
        bottom.yaxis.set_major_formatter(lambda y, _: f"{100 * y:g} %")
        bottom.set_xlabel("Epoch, counted over all phases")
        bottom.xaxis.get_major_locator().set_params(integer=True)
        handles = [h for a in (top, bottom) for h in a.get_legend_handles_labels()[0]]
        if handles:
            figure.legend(handles=handles, loc="outside upper left", ncols=3, handlelength=1.8, columnspacing=1.4)

    return Plot(f"training-{run.anchor}", _in_words(run), (5.0, 4.0), paint)


def _curve(axes: Axes, run: Run, key: str, name: str, style: int) -> None:
    dots = [(i, scalar(row, key)) for i, row in enumerate(run.epochs, start=1)]
    shown = [(x, y) for x, y in dots if y is not None]
    if shown:
        axes.plot(
            [x for x, _ in shown],
            [y for _, y in shown],
            color=PALETTE[style],
            linewidth=1.5,
            label=name,
            marker=MARKERS[style],
            markersize=3.2,
            markevery=max(1, len(shown) // 25),
        )


def _phases(axes: Axes, run: Run) -> None:
    for i, (_, first, last) in enumerate(phase_spans(run)):
        if i % 2 == 0:
            axes.axvspan(first - 0.5, last + 0.5, color=FOREGROUND, alpha=0.06, linewidth=0)
    for position in selected_positions(run):
        axes.axvline(position, color=FOREGROUND, linewidth=0.9, linestyle=(0, (1, 2)))
    axes.set_xlim(0.5, len(run.epochs) + 0.5)


def _phase_names(axes: Axes, run: Run) -> None:
    spans = phase_spans(run)
    narrow = min(last - first + 1 for _, first, last in spans) / len(run.epochs) < 0.2
    for i, (phase, first, last) in enumerate(spans):
        height = 12 if narrow and i % 2 else 3
        axes.annotate(
            shorten(phase, 14),
            ((first + last) / 2, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, height),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )


def _in_words(run: Run) -> str:
    phases = ", ".join(f"{phase} epochs {first} to {last}" for phase, first, last in phase_spans(run))
    parts = [f"Training curves of {run.label}: {phases}"]
    losses = [y for row in run.epochs if (y := scalar(row, "loss")) is not None]
    if losses:
        parts.append(f"loss from {losses[0]:.3g} to {losses[-1]:.3g}")
    for key, name in CURVES.items():
        values = [y for row in run.epochs if (y := scalar(row, key)) is not None]
        if values:
            parts.append(f"{name} validation accuracy from {percent(values[0])} to {percent(values[-1])}")
    return "; ".join(parts)
