"""The report: one HTML file that needs nothing else, made of finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from hedgerow.files import write_text
from hedgerow.report import tables
from hedgerow.report.curves import training_plot
from hedgerow.report.headline import headline, remarks
from hedgerow.report.plots import VERDICTS, accuracy_plot, layer_plot, verdict_counts, verdict_plot
from hedgerow.report.runs import Run, read_runs, robust_measure
from hedgerow.report.words import count, duration, measure_name, percent, plural, printable


def write_report(runs: Sequence[Path], out: Path, *, title: str | None = None, command: str | None = None) -> Path:
    """Write one self-contained HTML page comparing finished run folders; return its path.

    The same runs give the same bytes. `command` is the line that makes this page again, shown at its
    foot. Raises `HedgerowError` if no runs are given, `CheckpointError` if one is unfinished or broken.
    """
    return write_text(Path(out), render(read_runs(runs), title=title, command=command))


def render(runs: Sequence[Run], *, title: str | None = None, command: str | None = None) -> str:
    """Return the page as HTML."""
    environment = Environment(
        loader=PackageLoader("hedgerow.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent,
        count=count,
        duration=duration,
        plural=plural,
        printable=printable,
        measure_name=measure_name,
    )
    return environment.get_template("report.html.j2").render(
        title=printable(title) if title else _title(runs),
        command=command,
        runs=runs,
        facts=facts(runs),
        headline=headline(runs),
        remarks=remarks(runs),
        headings=tables.headings(runs),
        rows=tables.table_rows(runs),
        footnotes=tables.footnotes(runs),
        accuracy_plots=accuracy_plots(runs),
        layers=[(run, layer_plot(run)) for run in runs if not run.is_dense],
        training=[(run, training_plot(run)) for run in runs],
        verdict_plot=verdict_plot(runs),
        verdict_names=VERDICTS,
        verdicts=[(run, verdict_counts(run)) for run in runs],
        checks=checks(runs),
        phases=phases(runs),
    )


def facts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return what the page is about, as pairs of term and value; values that differ are all named."""
    evaluations = [run.result.evaluation for run in runs if run.result.evaluation]
    models = [f"{run.result.model}, {plural(run.result.parameters, 'parameter')}" for run in runs]
    images = [f"{len(e.examples):,} of the {e.split} split" for e in evaluations]
    return [
        ("Dataset", _joined([run.result.dataset for run in runs])),
        ("Threat model", _joined([e.threat for e in evaluations])),
        ("Model", _joined(models)),
        ("Test images", _joined(images)),
        ("Runs", str(len(runs))),
    ]


def accuracy_plots(runs: Sequence[Run]) -> list[tuple[str, Any]]:
    """Return measure name and plot for robust and clean accuracy, if two runs or more are compared."""
    names = [name for name in (robust_measure(runs), "clean") if name] if len(runs) > 1 else []
    drawn = [(name, accuracy_plot(runs, name, f"density-{name}")) for name in names]
    return [(name, plot) for name, plot in drawn if plot is not None]


def checks(runs: Sequence[Run]) -> list[tuple[str, list[bool | None]]]:
    """Return every integrity check with its outcome in each run, None where it was not run."""
    found = [run.result.evaluation.checks if run.result.evaluation else {} for run in runs]
    names = dict.fromkeys(name for outcomes in found for name in outcomes)
    return [(printable(name).replace("_", " "), [f.get(name) for f in found]) for name in names]


def phases(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return a row per finished phase of every run, ready to print."""
    return [
        {
            "run": run.label,
            "first": i == 0,
            "rows": len(run.result.phases),
            "total": duration(sum(p.seconds for p in run.result.phases)),
            "name": printable(phase.name),
            "objective": printable(phase.objective),
            "epochs": phase.epochs,
            "kept": phase.selected_epoch,
            "alarm": phase.alarm_epoch,
            "time": duration(phase.seconds),
            "exact": f"{phase.seconds:.1f} s",
            "speed": f"{phase.images_per_second:,.0f}",
        }
        for run in runs
        for i, phase in enumerate(run.result.phases)
    ]


def _title(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return f"Report on {runs[0].label}"
    return f"Comparison of {len(runs)} runs on {_joined([run.result.dataset for run in runs])}"


def _joined(values: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(map(printable, values))) or "no evaluation recorded"
