"""The tables of the page beside that of accuracy: verdicts, checks, layers, phases, sizes and costs."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from hedgerow.checks import Check
from hedgerow.report.canvas import Plot
from hedgerow.report.certified import certified_plot
from hedgerow.report.costs import cost_tables
from hedgerow.report.plots import verdict_counts, verdict_names
from hedgerow.report.runs import Run
from hedgerow.report.table import Cell, Table
from hedgerow.report.tables import accuracy_text, obtained
from hedgerow.report.words import count, duration, percent, plural, points, printable, radius
from hedgerow.result import Measure

OUTCOMES = {"pass": "\u2713 pass", "warn": "! warn", "fail": "\u2717 FAIL"}
NOT_RUN = Cell("not run", tone="quiet", value="")


def verdict_table(runs: Sequence[Run]) -> Table | None:
    """Return how many images of each run had each verdict; None if no run was evaluated."""
    if not any(run.result.evaluation and run.result.evaluation.verdicts for run in runs):
        return None
    names = verdict_names(runs)
    rows = []
    for run in runs:
        evaluation, counts = run.result.evaluation, verdict_counts(run)
        how = f"count of {len(evaluation.verdicts)} evaluated images, {evaluation.threat}" if evaluation else ""
        cells = [Cell(count(counts[name]), how, value=counts[name]) for name in names]
        rows.append([Cell(run.label), *(cells if evaluation else [Cell("not evaluated", value="")] * len(names))])
    shown = [n.capitalize().replace("autoattack", "AutoAttack").replace("pgd", "PGD") for n in names]
    return Table("verdicts", "Evaluated images by verdict", ["Run", *shown], rows)


def check_table(runs: Sequence[Run]) -> Table | None:
    """Return the outcome of every integrity check in each run; None if none was recorded."""
    names = dict.fromkeys(name for run in runs for name in run.checks)
    rows = [
        [Cell(printable(name).replace("_", " ")), *(_outcome(run.checks.get(name)) for run in runs)]
        for name in names
    ]
    caption = "Signs of gradient masking or of a broken evaluation, looked for in each run."
    headings = ["Check", *(run.label for run in runs)]
    return Table("checks", caption, headings, rows, words=len(headings)) if rows else None


def _outcome(check: Check | None) -> Cell:
    if check is None:
        return NOT_RUN
    return Cell(
        OUTCOMES[check.outcome],
        printable(check.how),
        note=printable(check.number),
        tone=check.outcome,
        value=check.outcome,
    )


def layer_table(run: Run) -> Table | None:
    """Return what is left of every prunable weight; None if no layers were recorded."""
    rows = [
        [
            Cell(printable(layer.name)),
            Cell(" \u00d7 ".join(map(str, layer.shape))),
            Cell(count(layer.kept), value=layer.kept),
            Cell(count(layer.total), value=layer.total),
            Cell(
                percent(layer.density) if layer.total else "empty",
                note="nothing left" if layer.total and not layer.kept else "",
                value=layer.density if layer.total else "",
            ),
        ]
        for layer in run.result.sparsity.layers
    ]
    caption = f"Counted in the finished network of {run.label}"
    headings = ["Weight", "Shape", "Kept", "Total", "Density"]
    return Table(f"layers-{run.anchor}", caption, headings, rows, words=2) if rows else None


def phase_table(runs: Sequence[Run]) -> Table | None:
    """Return a row per finished phase of every run; None if there is none."""
    rows = []
    for run in runs:
        total = f"{duration(sum(p.seconds for p in run.result.phases))} in all"
        for i, phase in enumerate(run.result.phases):
            alarm = phase.alarm_epoch
            collapsed = f"robust accuracy collapsed in epoch {alarm}" if alarm is not None else ""
            kept = "last" if phase.selected_epoch is None else str(phase.selected_epoch)
            speed = f"{phase.images_per_second:,.0f}"
            rows.append(
                [
                    Cell(run.label, note=total if i == 0 else ""),
                    Cell(printable(phase.name), note=collapsed),
                    Cell(printable(phase.objective)),
                    Cell(str(phase.epochs)),
                    Cell(kept),
                    Cell(duration(phase.seconds), f"{phase.seconds:.1f} s, wall clock", value=phase.seconds),
                    Cell(speed, "training images over the phase's wall-clock time", value=phase.images_per_second),
                ]
            )
    caption = "Wall-clock time and training images per second, on the machine named under Reproduce"
    headings = ["Run", "Phase", "Objective", "Epochs", "Epoch kept", "Time", "Images per second"]
    return Table("phases", caption, headings, rows, words=3) if rows else None


def size_table(runs: Sequence[Run]) -> Table:
    """Return what every network counts: parameters, those left, FLOPs where they were measured."""
    headings = ["Run", "Parameters", "Not removed", "FLOPs an image", "of these with non-zero weights"]
    rows = []
    for run in runs:
        result, cost = run.result, run.result.cost
        removed = result.sparsity.prunable - result.sparsity.kept
        left = cost.nonzeros if cost else result.parameters - removed
        how = "not zero in the finished network" if cost else "all parameters less the weights counted as removed"
        flops = [cost.flops_dense, cost.flops_sparse] if cost and not cost.flops_unknown else [None, None]
        traced = "2 per multiplication with its addition, counted layer by layer in the traced network"
        rows.append(
            [
                Cell(run.label),
                Cell(count(result.parameters), "counted in the network as built", value=result.parameters),
                Cell(count(left), how, f"{percent(left / max(result.parameters, 1))} of all", value=left),
                *(Cell(count(f), traced, value=f) if f is not None else _unknown_flops(run) for f in flops),
            ]
        )
    return Table("sizes", "Parameters and FLOPs of the networks", headings, rows)


def _unknown_flops(run: Run) -> Cell:
    cost = run.result.cost
    if cost is None:
        return Cell("not measured", "hedgerow export measures it", tone="quiet", value="")
    return Cell("not known", f"of {', '.join(map(printable, cost.flops_unknown))}", tone="quiet", value="")


def gain_tables(runs: Sequence[Run]) -> list[Table]:
    """Return the tables of exported files and their times, of every run that has them."""
    return [
        Table(
            f"cost-{run.anchor}-{i}",
            f"{run.label}: {caption}",
            rows[0],
            [[Cell(printable(text)) for text in row] for row in rows[1:]],
            notes=[printable(note) for note in notes],
        )
        for run in runs
        for i, (caption, rows, notes) in enumerate(cost_tables(run.result), start=1)
    ]


def curve_table(runs: Sequence[Run]) -> Table | None:
    """Return accuracy at every radius that any run was attacked at, on one line a run; None if none was."""
    radii = sorted({at.eps for run in runs for at in run.curve}, key=Fraction)
    rows = []
    for run in runs:
        found = {at.eps: at for at in run.curve}
        if found:
            cells = [_accuracy(found[eps]) if eps in found else NOT_RUN for eps in radii]
            clean = run.measure("clean")
            rows.append([Cell(run.label), _accuracy(clean) if clean else NOT_RUN, *cells])
    caption = "Accuracy under PGD by radius: an image counts if it stands there and at every smaller radius"
    return Table("curve", caption, ["Run", "0", *map(radius, radii)], rows) if rows else None


def corruption_table(runs: Sequence[Run]) -> Table | None:
    """Return the mean accuracy under common corruptions, of each family, and of each one; None if none was run."""
    found = [(r, r.result.evaluation.corruptions) for r in runs if r.result.evaluation]
    there = [(run, corruptions) for run, corruptions in found if corruptions]
    families = dict.fromkeys(family for _, one in there for family in one.families)
    names = dict.fromkeys(one.name for _, corruptions in there for one in corruptions.found)
    rows = []
    for run, corruptions in there:
        means = {one.name: one.accuracy for one in corruptions.found}
        shares = [corruptions.families.get(family) for family in families] + [means.get(name) for name in names]
        how = f"{corruptions.how}; {count(len(corruptions.found))} corruptions"
        cells = [Cell(percent(share), how, value=share) if share is not None else NOT_RUN for share in shares]
        mean = Cell(percent(corruptions.accuracy), how, value=corruptions.accuracy)
        clean = run.measure("clean")
        rows.append([Cell(run.label), _accuracy(clean) if clean else NOT_RUN, mean, *cells])
    out = [f"{r.label}: without {', '.join(map(printable, one.left_out))}" for r, one in there if one.left_out]
    ways = dict.fromkeys(level.how for _, one in there for c in one.found[:1] for level in c.levels[:1])
    notes = [f"each the mean of severities 1 to 5; such as {printable(way)}" for way in ways]
    caption = "Side information, no attack among it: mean accuracy under common corruptions, by family and kind"
    headings = ["Run", "Clean", "Mean", *(f"All {printable(f)}" for f in families), *map(printable, names)]
    return Table("corruptions", caption, headings, rows, notes=[*notes, *out]) if rows else None


def certified_tables(runs: Sequence[Run]) -> list[tuple[Run, Plot, Table]]:
    """Return the plot and the table of every certification in the folder of a run."""
    found = []
    for run in runs:
        for i, record in enumerate(run.certifications, start=1):
            name = f"certified-{run.anchor}-{i}"
            ((plain, measure),) = record.plain.items()
            rows = [[Cell(f"{plain}, without proof", value="plain"), *_counted(measure)]]
            rows += [[Cell(f"{at.radius:g}", value=at.radius), *_counted(at)] for at in record.curve]
            notes = [
                f"{record.how}; abstained on {record.abstained} of {measure.n} images of the {record.split} split"
            ]
            notes += [f"FAILED: {name}" for name, check in record.checks.items() if check.failed]
            caption = f"Certified accuracy of {run.label} by {record.norm} radius, {record.method}"
            headings = ["Radius", "Accuracy", "Correct", "Images"]
            table = Table(name, printable(caption), headings, rows, notes=list(map(printable, notes)))
            found.append((run, certified_plot(record, name), table))
    return found


def sensitivity_table(run: Run) -> Table | None:
    """Return robust accuracy with each layer alone pruned further; None where it was not measured."""
    found = run.result.sensitivity
    if found is None:
        return None
    rows = [[Cell("the network itself"), Cell("0", value=0), _accuracy(found.whole), Cell("", value=0)]]
    for one in found.layers:
        lost = one.measure.accuracy - found.whole.accuracy
        removed = Cell(count(one.removed), value=one.removed)
        rows.append([Cell(printable(one.layer)), removed, _accuracy(one.measure), Cell(points(lost), value=lost)])
    caption = (
        f"{percent(found.share)} of one layer's kept weights of {run.label} zeroed, smallest first, no training "
        f"after; PGD on {plural(found.whole.n, f'{found.split} image')}, which chose checkpoints already"
    )
    headings = ["Layer", "Weights zeroed", "Robust accuracy", "Change"]
    return Table(f"sensitivity-{run.anchor}", printable(caption), headings, rows)


def _accuracy(m: Measure) -> Cell:
    return Cell(accuracy_text(m), obtained(m), value=m.accuracy)


def _counted(m: Measure) -> list[Cell]:
    return [_accuracy(m), Cell(count(m.correct), value=m.correct), Cell(count(m.n), value=m.n)]
