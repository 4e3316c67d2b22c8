"""What each form of a network costs and gains, in one table; where nothing is gained it says so."""

from __future__ import annotations

from collections.abc import Sequence

from hedgerow.report.words import TIMES, count, plural
from hedgerow.result import Cost, Latency, Result, StoredForm, Survival

BASELINE = ("dense", "onnxruntime")
"""The form and engine that speed-ups are against: the network with its zeros under ONNX Runtime."""
_NOTABLE = 1.05


def cost_tables(result: Result) -> list[tuple[str, list[list[str]], list[str]]]:
    """Return the tables of a run's cost as caption, rows and notes; none where nothing was measured."""
    tables = []
    if result.cost is not None:
        tables.append(("Sizes and times", gains_table(result.cost), gains_notes(result.cost)))
    if result.survival:
        tables.append(
            ("What is left of robustness", survival_table(result.survival), survival_notes(result.survival))
        )
    return tables


def baseline(cost: Cost, like: Latency) -> Latency | None:
    """Return the time that `like` is compared with: same batch and threads."""
    same = (t for t in cost.latencies if (t.form, t.engine) == BASELINE)
    return next((t for t in same if (t.batch, t.threads) == (like.batch, like.threads)), None)


def speed_up(cost: Cost, time: Latency) -> float | None:
    """Return how many times faster than the baseline, None where that was not measured."""
    base = baseline(cost, time)
    return base.median_ms / time.median_ms if base else None


def verdict(cost: Cost, form: str, engine: str | None) -> str:
    """Return what a form gains under an engine, of 1.05 times or more: `size`, `speed`, both, or `nothing`."""
    sizes = [cost.bytes_dense / f.bytes for f in cost.forms if f.form == form]
    speeds = [speed_up(cost, t) for t in cost.latencies if (t.form, t.engine) == (form, engine)]
    found = ["size"] if any(smaller >= _NOTABLE for smaller in sizes) else []
    found += ["speed"] if any(faster is not None and faster >= _NOTABLE for faster in speeds) else []
    return " and ".join(found) or "nothing"


def gains_table(cost: Cost) -> list[list[str]]:
    """Return sizes and times of every form and engine: the headings, the dense network, then a row for each."""
    keys = sorted({(t.threads, t.batch) for t in cost.latencies})
    many = len({threads for threads, _ in keys}) > 1
    titles = [f"batch {batch}" + (f", {plural(threads, 'thread')}" if many else "") for threads, batch in keys]
    stored = {form.form: form for form in cost.forms}
    headings = ["format", "bytes", "smaller", "zipped", "smaller", "engine", *titles, "logits differ", "gains"]
    dense = ["dense float32", count(cost.bytes_dense), "", "", "", *BASELINE[1:]]
    rows = [headings, [*dense, *(_time(cost, *BASELINE, key) for key in keys), "", "(the yardstick)"]]
    for form, engine in _pairs(cost):
        rows.append(
            [
                form,
                *_sizes(cost, stored.get(form)),
                engine or "not timed",
                *(_time(cost, form, engine, key) for key in keys),
                f"{stored[form].relative_difference:.1g}" if form in stored else "",
                verdict(cost, form, engine),
            ]
        )
    return rows


def _pairs(cost: Cost) -> list[tuple[str, str | None]]:
    """Return every form with each engine it was timed under, None where it was not; the yardstick left out."""
    timed = list(dict.fromkeys((t.form, t.engine) for t in cost.latencies if (t.form, t.engine) != BASELINE))
    found: list[tuple[str, str | None]] = []
    for name in dict.fromkeys([*(form.form for form in cost.forms), *(form for form, _ in timed)]):
        engines = [engine for form, engine in timed if form == name]
        found += [(name, engine) for engine in engines] or [(name, None)]
    return found


def _sizes(cost: Cost, form: StoredForm | None) -> list[str]:
    if form is None:
        return [""] * 4
    return [
        count(form.bytes),
        ratio(cost.bytes_dense / form.bytes),
        count(form.zipped),
        ratio(cost.bytes_dense / form.zipped),
    ]


def gains_notes(cost: Cost) -> list[str]:
    """Return what the table stands on, which forms gain nothing, and what was refused."""
    idle = [
        f"{form} under {engine}" if engine else form
        for form, engine in _pairs(cost)
        if verdict(cost, form, engine) == "nothing"
    ]
    threads = ", ".join(str(t) for t in sorted({t.threads for t in cost.latencies})) or "none"
    place = "; ".join(f"{key} {value}" for key, value in cost.machine.items())
    notes = [f"nothing is gained by {', '.join(idle)} on this machine"] if idle else []
    notes += [
        f"{count(cost.nonzeros)} of {count(cost.parameters)} parameters are not zero; {_flops(cost)}",
        "smaller: than all parameters and buffers as plain float32; faster (in brackets): than the dense network "
        f"under ONNX Runtime, median of the runs; threads: {threads}; {place}",
    ]
    if not any((t.form, t.engine) == BASELINE for t in cost.latencies) and cost.latencies:
        notes.append("no speed-up is stated: the dense network was not timed under ONNX Runtime")
    return [*notes, *(f"refused: {what}: {why}" for what, why in cost.refused.items())]


def _flops(cost: Cost) -> str:
    unknown = f"FLOPs are not known of {', '.join(cost.flops_unknown)}" if cost.flops_unknown else ""
    if cost.flops_dense is None or cost.flops_sparse is None:
        return unknown
    known = f"{count(cost.flops_sparse)} of {count(cost.flops_dense)} FLOPs an image are with them"
    return f"{known}; {unknown}" if unknown else known


def _time(cost: Cost, form: str, engine: str | None, key: tuple[int, int]) -> str:
    same = (t for t in cost.latencies if (t.form, t.engine) == (form, engine))
    found = next((t for t in same if (t.threads, t.batch) == key), None)
    if found is None:
        return "-"
    faster = speed_up(cost, found) if (form, engine) != BASELINE else None
    return f"{found.median_ms:.3g} ms" + (f" ({ratio(faster)})" if faster else "")


def ratio(number: float) -> str:
    """Return a ratio with as many digits as it is worth."""
    return f"{number:.2f}{TIMES}" if number < 10 else f"{number:.0f}{TIMES}"


def survival_table(survivals: Sequence[Survival]) -> list[list[str]]:
    """Return what is left of accuracy and robustness in each form: the headings, then a row per form."""
    names = list(dict.fromkeys(name for s in survivals for name in s.measures))
    rows = [["format", *(part for name in names for part in (name, "changed"))]]
    for s in survivals:
        row = [s.form]
        for name in names:
            found = s.measures.get(name)
            row += [f"{found.accuracy:.2%}" if found else "-", str(s.changed.get(name, "-"))]
        rows.append(row)
    return rows


def survival_notes(survivals: Sequence[Survival]) -> list[str]:
    """Return how the accuracies of the table were obtained."""
    ways = {name: m.how for s in survivals for name, m in s.measures.items()}
    n = next(iter(survivals[0].measures.values())).n if survivals else 0
    notes = [f"{name}: {how}; n = {n}" for name, how in ways.items()]
    notes.append("changed: images of which the form says another class than the run's network")
    return [*notes, *(f"{s.form}: {s.note}" for s in survivals if s.note)]
