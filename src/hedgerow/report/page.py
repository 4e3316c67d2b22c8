"""The report: one HTML file that needs nothing else, made of finished runs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from hedgerow.files import write_text
from hedgerow.report.content import Content, Summary, content_of
from hedgerow.report.export import write_files
from hedgerow.report.gallery import SHOWN_VERDICTS
from hedgerow.report.headline import headline, headline_over_seeds, remarks
from hedgerow.report.runs import Run, read_runs
from hedgerow.report.tables import footnotes
from hedgerow.report.words import measure_name, percent, plural, printable


def write_report(
    runs: Sequence[Path],
    out: Path,
    *,
    title: str | None = None,
    command: str | None = None,
    summary: Summary | None = None,
    files: Path | None = None,
) -> Path:
    """Write one self-contained HTML page comparing finished run folders; return its path.

    The same runs give the same bytes. `command` is the line that makes this page again, shown at its foot. Under
    a `summary` over seeds, what is of one run alone is left out. With `files`, every plot and table is written
    to that folder as files as well. Raises `HedgerowError` if no runs are given, `CheckpointError` if one is
    unfinished or broken.
    """
    read = read_runs(runs, galleries=summary is None)
    shown = content_of(read, summary)
    if files is not None:
        write_files(shown, files)
    return write_text(Path(out), render(read, shown, title=title, command=command))


def render(runs: Sequence[Run], shown: Content, *, title: str | None = None, command: str | None = None) -> str:
    """Return the page as HTML."""
    classes = shown_classes(runs)
    environment = Environment(
        loader=PackageLoader("hedgerow.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent,
        plural=plural,
        printable=printable,
        measure_name=measure_name,
    )
    return environment.get_template("report.html.j2").render(
        title=printable(title) if title else _title(runs),
        command=command,
        runs=runs,
        shown=shown,
        number=itertools.count(1).__next__,
        facts=facts(runs),
        headline=headline_over_seeds(shown.summary.headline, runs) if shown.summary else headline(runs),
        remarks=remarks(runs),
        footnotes=footnotes(runs),
        classes=classes,
        empty_choices=partial(empty_choices, classes=classes),
        verdicts=SHOWN_VERDICTS,
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


def shown_classes(runs: Sequence[Run]) -> list[str]:
    """Return the names of the true classes of all pictures, in the order of the classes."""
    pictures = [p for run in runs if run.gallery for p in run.gallery.pictures]
    return list(dict.fromkeys(p.truth for p in sorted(pictures, key=lambda p: p.label)))


def empty_choices(run: Run, classes: Sequence[str]) -> list[tuple[str, str]]:
    """Return the choices of class (by number from 1, or all) and verdict that no picture of a run is of."""
    pictures = run.gallery.pictures if run.gallery else []
    there = {(chosen, word) for p in pictures for chosen in (p.truth, "") for word in (p.verdict, "all")}
    options = [("", "all"), *((name, str(i)) for i, name in enumerate(classes, start=1))]
    return [
        (number, word)
        for name, number in options
        for word in ("all", *SHOWN_VERDICTS)
        if (name, word) not in there and pictures
    ]


def _title(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return f"Report on {runs[0].label}"
    return f"Comparison of {len(runs)} runs on {_joined([run.result.dataset for run in runs])}"


def _joined(values: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(map(printable, values))) or "no evaluation recorded"
