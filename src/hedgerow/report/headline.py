"""What the runs say in one sentence, and what a reader must know before believing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hedgerow.report.runs import Run, reference_for, robust_measure
from hedgerow.report.words import measure_name, percent, plural, printable
from hedgerow.result import Measure


@dataclass(frozen=True)
class Headline:
    """One sentence, the intervals behind it, and the failed checks of the runs it speaks of."""

    text: str
    detail: str = ""
    warnings: list[str] = field(default_factory=list)


def headline(runs: Sequence[Run]) -> Headline:
    """Return the sentence for the sparsest pruned run, the most robust of them if several are as sparse.

    A run that failed an integrity check is named only if no other can be.
    """
    name = robust_measure(runs)
    measured = [(run, m) for run in runs if name and (m := run.measure(name)) is not None]
    pruned = [(run, m) for run, m in measured if not run.is_dense and run.density is not None]
    if name is None or not measured:
        return Headline(_without_measure(runs))
    if not pruned:
        run, m = max(measured, key=lambda pair: (not pair[0].failed_checks, pair[1].accuracy))
        text = f"The dense network {run.label} reaches {_robust(name, m)}; no pruned run was measured"
        return Headline(text, f"{_interval(run, m)}.{_verified([run])}", _warnings([run]))
    run, m = max(pruned, key=_rank)
    subject = f"{printable(run.result.method)} at {percent(1 - (run.density or 0))} sparsity"
    dense = reference_for(run, runs)
    reference = dense.measure(name) if dense else None
    if dense is None or reference is None:
        text = f"{subject} reaches {_robust(name, m)}; there is no dense run to compare it with"
        return Headline(text, f"{_interval(run, m)}.{_verified([run])}", _warnings([run]))
    detail = f"{_interval(run, m)}; {_interval(dense, reference)}."
    if reference.how != m.how or reference.n != m.n:
        detail += " The two were not obtained in the same way; see the notes under the table."
    detail += _verified([run, dense])
    if reference.correct == 0:
        text = f"{subject} reaches {_robust(name, m)}; the dense network has no robust accuracy to keep"
        return Headline(text, detail, _warnings([run, dense]))
    kept = percent(m.accuracy / reference.accuracy, 0)
    text = f"{subject} keeps {kept} of the dense network's robust accuracy ({_accuracy(name, m)})"
    return Headline(text, detail, _warnings([run, dense]))


def headline_over_seeds(text: str, runs: Sequence[Run]) -> Headline:
    """Return a sentence about means over seeds, with the failed checks of every run behind them."""
    return Headline(text, "", _warnings(runs))


def remarks(runs: Sequence[Run]) -> list[str]:
    """Return what limits the comparison: unlike data, threats or images, and what was not measured."""
    evaluated = [run for run in runs if run.result.evaluation is not None]
    evaluations = [run.result.evaluation for run in runs if run.result.evaluation is not None]
    kinds = {
        "datasets": len({r.result.dataset for r in runs}),
        "threat models": len({e.threat for e in evaluations}),
        "splits": len({e.split for e in evaluations}),
        "test images": len({tuple(e.examples) for e in evaluations}),
    }
    said = [
        f"These runs were evaluated on different {what}: their accuracies are not strictly comparable."
        for what, different in kinds.items()
        if different > 1
    ]
    if len({r.result.model for r in runs}) > 1:
        said.append("These runs have different architectures: each is compared with a dense run of its own.")
    said += [f"{r.label}: no evaluation was recorded." for r in runs if r.result.evaluation is None]
    said += [
        f"{r.label}: no dense run of the same data, architecture, threat model and split is given, so no "
        "difference is shown."
        for r in evaluated
        if reference_for(r, runs) is None
    ]
    counts = [m.n for r in evaluated for key in ("clean", "autoattack") if (m := r.measure(key))]
    if counts and min(counts) < 100:
        said.append(f"Some accuracies rest on {plural(min(counts), 'image')} only; read the intervals.")
    return said


def _rank(pair: tuple[Run, Measure]) -> tuple[bool, float, float]:
    run, measure = pair
    return not run.failed_checks, round(1 - (run.density or 0.0), 2), measure.accuracy


def _accuracy(name: str, m: Measure) -> str:
    return f"{measure_name(name)} {percent(m.accuracy)} of {plural(m.n, 'image')}"


def _robust(name: str, m: Measure) -> str:
    return f"a robust accuracy of {percent(m.accuracy)} ({measure_name(name)}, {plural(m.n, 'image')})"


def _interval(run: Run, m: Measure) -> str:
    return f"{run.label} {percent(m.accuracy)}, 95 % interval [{100 * m.low:.1f}, {100 * m.high:.1f}]"


def _verified(runs: Sequence[Run]) -> str:
    """Return what is proved beside what attacks left, where it was looked for."""
    found = [(run, m) for run in runs if (m := run.measure("verified")) is not None]
    return f" Verified, by bounds: {'; '.join(_interval(run, m) for run, m in found)}." if found else ""


def _warnings(runs: Sequence[Run]) -> list[str]:
    return [
        f"{run.label} failed {plural(len(run.failed_checks), 'integrity check')} "
        f"({', '.join(run.named(c) for c in run.failed_checks)}): do not rely on its accuracies"
        for run in runs
        if run.failed_checks
    ]


def _without_measure(runs: Sequence[Run]) -> str:
    pruned = [run for run in runs if not run.is_dense and run.density is not None]
    if not pruned:
        return "No robust accuracy was measured"
    run = max(pruned, key=lambda r: 1 - (r.density or 0.0))
    sparsity = percent(1 - (run.density or 0.0))
    return f"{printable(run.result.method)} reaches {sparsity} sparsity; its robust accuracy was not measured"
