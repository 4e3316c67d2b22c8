"""All tables and plots of a page, made once: the page shows them, and each can be written as files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hedgerow.report import sections, tables
from hedgerow.report.canvas import Plot
from hedgerow.report.curves import training_plot
from hedgerow.report.plots import accuracy_plot, layer_plot, verdict_plot
from hedgerow.report.robustness import curve_plots, sensitivity_plot
from hedgerow.report.runs import Run, robust_measure
from hedgerow.report.table import Table

Piece = tuple[Run, Plot | None, Table | None]
Pieces = Sequence[Piece]


@dataclass(frozen=True)
class Summary:
    """What a comparison over seeds says above its runs, and where each run is shown in full."""

    headline: str
    tables: list[Table]
    plot: Plot
    pages: list[str]


@dataclass(frozen=True)
class Content:
    """The tables and plots of a page; a piece belongs to one run, and lacks what was not recorded."""

    accuracy: Table
    accuracy_plots: list[tuple[str, Plot]]
    curve: Table | None
    curve_plots: list[Plot]
    certified: Pieces
    verdicts: Table | None
    verdict_plot: Plot | None
    checks: Table | None
    sizes: Table
    gains: list[Table]
    phases: Table | None
    corruptions: Table | None = None
    summary: Summary | None = None
    layers: Pieces = ()
    sensitivity: Pieces = ()
    training: Sequence[tuple[Run, Plot | None]] = ()

    @property
    def plots(self) -> list[Plot]:
        """Every plot there is."""
        several = [self.summary.plot] if self.summary else []
        several += [plot for _, plot in self.accuracy_plots] + self.curve_plots
        pieces = [plot for _, plot, _ in [*self.certified, *self.layers, *self.sensitivity]]
        rest = [self.verdict_plot, *pieces, *(plot for _, plot in self.training)]
        return [*several, *(plot for plot in rest if plot is not None)]

    @property
    def tables(self) -> list[Table]:
        """Every table there is beside that of accuracy."""
        several = self.summary.tables if self.summary else []
        pieces = [table for _, _, table in [*self.certified, *self.layers, *self.sensitivity]]
        rest = [self.curve, self.corruptions, self.verdicts, self.checks, self.phases, *pieces]
        return [*several, self.sizes, *self.gains, *(table for table in rest if table is not None)]


def content_of(runs: Sequence[Run], summary: Summary | None = None) -> Content:
    """Make every table and plot of these runs; under a `summary`, what is of one run alone is left to its page."""
    alone = [] if summary else runs
    return Content(
        accuracy=tables.accuracy_table(runs),
        accuracy_plots=[] if summary else accuracy_plots(runs),
        curve=sections.curve_table(runs),
        corruptions=sections.corruption_table(runs),
        curve_plots=[] if summary else curve_plots(runs),
        certified=sections.certified_tables(runs),
        verdicts=sections.verdict_table(runs),
        verdict_plot=None if summary else verdict_plot(runs),
        checks=sections.check_table(runs),
        sizes=sections.size_table(runs),
        gains=sections.gain_tables(runs),
        phases=sections.phase_table(runs),
        summary=summary,
        layers=[(run, layer_plot(run), sections.layer_table(run)) for run in alone if not run.is_dense],
        sensitivity=[
            (run, sensitivity_plot(run), table) for run in alone if (table := sections.sensitivity_table(run))
        ],
        training=[(run, training_plot(run)) for run in alone],
    )


def accuracy_plots(runs: Sequence[Run]) -> list[tuple[str, Plot]]:
    """Return measure name and plot for robust and clean accuracy, if two runs or more are compared."""
    names = [name for name in (robust_measure(runs), "clean") if name] if len(runs) > 1 else []
    drawn = [(name, accuracy_plot(runs, name, f"density-{name}")) for name in names]
    return [(name, plot) for name, plot in drawn if plot is not None]
