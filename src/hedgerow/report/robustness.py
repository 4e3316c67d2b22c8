"""The plots of robustness within a run: accuracy against the radius, and what hangs on each layer."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from hedgerow.report.canvas import FOREGROUND, MARKERS, PALETTE, Plot, plain_ticks
from hedgerow.report.plots import WIDTH
from hedgerow.report.runs import Run
from hedgerow.report.words import percent, points, printable, radius, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Dots = list[tuple[float, float, float, float]]


def norm_of(run: Run) -> str:
    """Return the norm of a run's threat, as its evaluation names it."""
    threat = run.result.evaluation.threat if run.result.evaluation else ""
    return printable(threat.split()[0].rstrip(",")) if threat.strip() else ""


def curve_plots(runs: Sequence[Run]) -> list[Plot]:
    """Return a security curve for every norm that runs were attacked in at several radii."""
    having = [run for run in runs if run.curve]
    norms = dict.fromkeys(norm_of(run) for run in having)
    return [
        _curve_plot([r for r in having if norm_of(r) == norm], norm, i) for i, norm in enumerate(norms, start=1)
    ]


def _curve_plot(runs: Sequence[Run], norm: str, number: int) -> Plot:
    lines = {run.label: _dots(run) for run in runs}
    words = "; ".join(
        f"{run.label}: " + ", ".join(f"{percent(at.accuracy)} at {radius(at.eps)}" for at in run.curve)
        for run in runs
    )
    farthest = max(dots[-1][0] for dots in lines.values())
    shown = sorted({Fraction(at.eps) for run in runs for at in run.curve})

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for i, (label, dots) in enumerate(lines.items()):
            x, y, low, high = zip(*dots, strict=True)
            colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
            axes.plot(x, y, label=shorten(label, 28), linewidth=1.5, markersize=4.5, color=colour, marker=marker)
            axes.fill_between(x, low, high, color=colour, alpha=0.1, linewidth=0)
        apart = [eps for i, eps in enumerate(shown) if i == 0 or eps - shown[i - 1] > Fraction(farthest) / 16]
        axes.set_xticks([0.0, *map(float, apart)], ["0", *(radius(str(eps)) for eps in apart)])
        axes.set_xlabel(f"{norm} radius of the attack, pixel units")
        axes.set_ylabel("Accuracy under PGD")
        axes.set_xlim(0, 1.02 * farthest)
        axes.set_ylim(0, min(1.0, 0.02 + 1.08 * max(dot[3] for dots in lines.values() for dot in dots)))
        axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:g} %")
        figure.legend(loc="outside upper left", ncols=2, handlelength=1.8)

    return Plot(f"curve-{number}", f"Accuracy under PGD against the {norm} radius. {words}", (WIDTH, 3.5), paint)


def _dots(run: Run) -> Dots:
    """Return radius, accuracy and interval, from the unchanged images on."""
    clean = run.measure("clean")
    start = [(0.0, clean.accuracy, clean.low, clean.high)] if clean else []
    return [*start, *((float(Fraction(at.eps)), at.accuracy, at.low, at.high) for at in run.curve)]


def sensitivity_plot(run: Run) -> Plot | None:
    """Draw the robust accuracy lost with each layer alone pruned further; None where it was not measured."""
    found = run.result.sensitivity
    if found is None or not found.layers:
        return None
    lost = [found.whole.accuracy - one.measure.accuracy for one in found.layers]
    names = [one.layer for one in found.layers]
    label = f"Robust accuracy lost by layer of {run.label}. " + ", ".join(
        f"{printable(name)}: {points(-loss)}" for name, loss in zip(names, lost, strict=True)
    )

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        rows = range(len(lost))
        axes.barh(rows, lost, color=PALETTE[1], height=0.68)
        axes.axvline(0, color=FOREGROUND, linewidth=0.9)
        for row, loss in enumerate(lost):
            axes.annotate(
                points(-loss), (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=7.5
            )
        axes.set_yticks(rows, [shorten(name, 28) for name in names], fontsize=7.5)
        axes.set_ylim(len(lost) - 0.4, -0.6)
        axes.set_xlim(min(0.0, 1.1 * min(lost)), max(0.01, 1.05 * max(lost)))
        axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:g}")
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel("Robust accuracy lost, percentage points", fontsize=8)
        axes.grid(visible=False, axis="y")
        plain_ticks(axes)

    return Plot(f"sensitivity-{run.anchor}", label, (WIDTH, 0.75 + 0.19 * len(lost)), paint)
