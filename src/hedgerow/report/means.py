"""The plot of a comparison over seeds: one line per method, mean and spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hedgerow.report.canvas import MARKERS, PALETTE, Plot
from hedgerow.report.plots import density_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def means_plot(lines: Mapping[str, Sequence[tuple[float, float, float]]], title: str) -> Plot:
    """Draw `{method: [(density, mean, spread), ...]}`, shares from 0 to 1, log density axis."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for i, (method, dots) in enumerate(lines.items()):
            density, mean, spread = zip(*sorted(dots), strict=True)
            axes.errorbar(
                density,
                mean,
                yerr=spread,
                label=method,
                color=PALETTE[i % len(PALETTE)],
                marker=MARKERS[i % len(MARKERS)],
                capsize=2,
            )
        density_axis(axes, [density for dots in lines.values() for density, _, _ in dots])
        axes.set_ylabel(title)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:g} %")
        figure.legend(loc="outside upper left", ncols=4)

    words = "; ".join(
        f"{method}: " + ", ".join(f"{100 * m:.1f} % at density {100 * d:.2f} %" for d, m, _ in dots)
        for method, dots in lines.items()
    )
    return Plot("means", f"{title} against density. {words}", (6.5, 4.2), paint)
