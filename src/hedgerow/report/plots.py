"""The plots that compare runs: accuracy against density, density by layer, verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hedgerow.report.canvas import FOREGROUND, MARKERS, PALETTE, Plot, ink_on, plain_ticks
from hedgerow.report.runs import Run
from hedgerow.report.words import measure_name, percent, printable, short_count, shorten
from hedgerow.result import Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.0
OTHER = "broken by another attack"
VERDICTS = ("robust", OTHER, "broken by autoattack", "broken by pgd", "misclassified")
VERDICT_COLOURS = dict(zip(VERDICTS, (PALETTE[2], PALETTE[0], PALETTE[1], PALETTE[5], PALETTE[6]), strict=True))

Point = tuple[float, Measure, bool]


def accuracy_plot(runs: Sequence[Run], measure: str, name: str) -> Plot | None:
    """Draw a measure against density, one line per method, the first dense run as reference.

    None if no run has a density and the measure to place.
    """
    dense = _points([r for r in runs if r.is_dense], measure)
    methods = dict.fromkeys(printable(r.result.method) for r in runs if not r.is_dense)
    pruned = [(m, _points([r for r in runs if _pruned_by(r, m)], measure)) for m in methods]
    lines = [(method, dots) for method, dots in pruned if dots]
    everything = [*([("dense", dense)] if dense else []), *lines]
    if not everything:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        if dense:
            axes.axhspan(dense[0][1].low, dense[0][1].high, color=FOREGROUND, alpha=0.07, linewidth=0)
            axes.axhline(dense[0][1].accuracy, color=FOREGROUND, linewidth=0.9, linestyle=(0, (5, 3)))
            _line(axes, dense, "dense", colour=FOREGROUND, marker="o", linestyle="none")
        for i, (method, dots) in enumerate(lines):
            apart = 10 ** (0.014 * (i - (len(lines) - 1) / 2))
            moved = [(density * apart, m, failed) for density, m, failed in dots]
            colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
            _line(axes, moved, shorten(method, 24), colour=colour, marker=marker)
        density_axis(axes, [density for _, dots in everything for density, _, _ in dots])
        axes.set_ylabel(f"{measure_name(measure)} accuracy")
        axes.set_ylim(0, min(1.0, 0.02 + 1.08 * max(m.high for _, dots in everything for _, m, _ in dots)))
        axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:g} %")
        figure.legend(loc="outside upper left", ncols=_columns(everything), handlelength=1.8)

    return Plot(name, _in_words(measure, everything), (WIDTH, 3.5), paint)


def _pruned_by(run: Run, method: str) -> bool:
    return not run.is_dense and printable(run.result.method) == method


def _points(runs: Sequence[Run], measure: str) -> list[Point]:
    found = [(r.density, r.measure(measure), bool(r.failed_checks)) for r in runs]
    dots = [(density, m, failed) for density, m, failed in found if density and m is not None]
    return sorted(dots, key=lambda dot: dot[0])


def _in_words(measure: str, lines: list[tuple[str, list[Point]]]) -> str:
    said = [
        f"{method}: " + ", ".join(f"{percent(m.accuracy)} at density {percent(d)}" for d, m, _ in dots)
        for method, dots in lines
    ]
    return f"{measure_name(measure)} accuracy against density. " + "; ".join(said)


def _line(axes: Axes, dots: list[Point], label: str, *, colour: str, marker: str, linestyle: str = "-") -> None:
    x = [density for density, _, _ in dots]
    y = [m.accuracy for _, m, _ in dots]
    error = [
        [max(0.0, m.accuracy - m.low) for _, m, _ in dots],
        [max(0.0, m.high - m.accuracy) for _, m, _ in dots],
    ]
    axes.errorbar(
        x,
        y,
        yerr=error,
        color=colour,
        linestyle=linestyle,
        linewidth=1.5,
        elinewidth=1.0,
        capsize=2.5,
        marker=marker,
        markersize=5,
        label=label,
    )
    hollow = [i for i, dot in enumerate(dots) if dot[2]]
    axes.scatter(
        [x[i] for i in hollow],
        [y[i] for i in hollow],
        s=90,
        facecolors="none",
        edgecolors=PALETTE[5],
        zorder=4,
    )


def _columns(lines: list[tuple[str, list[Point]]]) -> int:
    return len(lines) if sum(len(method) + 8 for method, _ in lines) < 64 else 3


def density_axis(axes: Axes, densities: list[float]) -> None:
    """Give `axes` a logarithmic density axis with ticks in per cent that spans `densities`."""
    low, high = min(densities) / 1.35, max(densities) * 1.35
    ticks = [m * 10.0**e for e in range(-6, 1) for m in (1, 2, 5) if low <= m * 10.0**e <= min(high, 1.0)]
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [f"{100 * t:g} %" for t in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("Density: share of prunable weights kept (log scale)")


def layer_plot(run: Run) -> Plot | None:
    """Draw the kept share of every prunable weight as bars; None if the run has no layers."""
    layers = [(la.name, la.kept, la.total) for la in run.result.sparsity.layers if la.total > 0]
    if not layers:
        return None
    shares = [kept / total for _, kept, total in layers]
    label = f"Density by layer of {run.label}. " + ", ".join(
        f"{printable(n)}: {percent(s)}" for (n, _, _), s in zip(layers, shares, strict=True)
    )

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        rows = range(len(layers))
        beside = ("axes fraction", "data")
        axes.barh(rows, shares, color=PALETTE[0], height=0.68)
        if run.density is not None:
            axes.axvline(run.density, color=FOREGROUND, linewidth=0.9, linestyle=(0, (5, 3)))
        top = max(*shares, run.density or 0.0, 1e-9)
        for row, (_, kept, total) in enumerate(layers):
            text = f"{percent(kept / total)}, {short_count(kept)} of {short_count(total)}"
            axes.annotate(text, (1.02, row), xycoords=beside, va="center", fontsize=7.5)
        axes.set_yticks(rows, [shorten(n, 28) for n, _, _ in layers], fontsize=7.5)
        axes.set_ylim(len(layers) - 0.4, -0.6)
        axes.set_xlim(0, min(1.0, 1.05 * top))
        axes.locator_params(axis="x", nbins=5)
        ticks = [t for t in axes.get_xticks() if t <= min(1.0, 1.05 * top)]
        axes.set_xticks(ticks, [f"{100 * t:g} %" for t in ticks])
        axes.grid(visible=False, axis="y")
        plain_ticks(axes)

    return Plot(f"layers-{run.anchor}", label, (WIDTH, 0.5 + 0.19 * len(layers)), paint)


def verdict_counts(run: Run) -> dict[str, int]:
    """Return how many images had each verdict, those of all further attacks together."""
    verdicts = run.result.evaluation.verdicts if run.result.evaluation else []
    return {**dict.fromkeys(VERDICTS, 0), **Counter(v if v in VERDICTS else OTHER for v in verdicts)}


def verdict_names(runs: Sequence[Run]) -> list[str]:
    """Return the verdicts that there can be: that of further attacks only where one has broken something."""
    return [name for name in VERDICTS if name != OTHER or any(verdict_counts(run)[OTHER] for run in runs)]


def verdict_plot(runs: Sequence[Run]) -> Plot | None:
    """Draw the verdicts of every evaluated run as one stacked bar each; None if there are no verdicts."""
    counts = [(run.label, verdict_counts(run)) for run in runs]
    counts = [(label, c) for label, c in counts if sum(c.values())]
    if not counts:
        return None
    names = verdict_names(runs)
    label = "Verdicts on the test images. " + "; ".join(
        f"{run}: " + ", ".join(f"{c[name]} {name}" for name in names) for run, c in counts
    )

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        rows = range(len(counts))
        start = [0.0] * len(counts)
        for verdict in names:
            shares = [c[verdict] / sum(c.values()) for _, c in counts]
            axes.barh(rows, shares, left=start, color=VERDICT_COLOURS[verdict], height=0.62, label=verdict)
            style: dict[str, Any] = {
                "ha": "center",
                "va": "center",
                "color": ink_on(VERDICT_COLOURS[verdict]),
                "fontsize": 8,
                "weight": "bold",
            }
            for row, share in enumerate(shares):
                if share > 0.05:
                    axes.annotate(str(counts[row][1][verdict]), (start[row] + share / 2, row), **style)
            start = [s + share for s, share in zip(start, shares, strict=True)]
        axes.set_yticks(rows, [shorten(run, 22) for run, _ in counts])
        axes.set_ylim(len(counts) - 0.45, -0.55)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:g} %")
        axes.grid(visible=False, axis="y")
        plain_ticks(axes)
        figure.legend(loc="outside upper left", ncols=2, handlelength=1.0)

    return Plot("verdicts", label, (WIDTH, 1.0 + 0.3 * len(counts)), paint)
