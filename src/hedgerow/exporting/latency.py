"""`hedgerow latency`: how long a network takes under each engine, each in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from hedgerow.compact import write_sparse
from hedgerow.engines import ENGINES
from hedgerow.engines.timing import Plan, Subject, Timings, measure
from hedgerow.errors import CheckpointError, MissingPackageError, ModelError
from hedgerow.export import write_onnx
from hedgerow.export.onnx_file import at_least_two
from hedgerow.exporting.source import Source, counted, machine, source_of
from hedgerow.files import write_text
from hedgerow.report.costs import BASELINE
from hedgerow.result import LatencyRecord

_COMPARED = 64


def latency_target(
    target: Path,
    engines: Sequence[str],
    plan: Plan,
    *,
    recipe: str | None = None,
    out: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Path, LatencyRecord]:
    """Time a run folder's network, a weights file's under `recipe`, or an exported file; return its record.

    `engines` are names, none for all that can. A network is timed as a sparse file under PyTorch and the sparse
    runtime, and with its zeros as an ONNX file under ONNX Runtime; an exported file as it is. The record is
    written to `out` (`latency.json` in a run folder, `NAME-latency.json` beside a file); a run's `result.json` and
    page take it up.

    Raises `ModelError` when an engine that was named cannot run the network, or no engine can; `UnknownNameError`,
    `CheckpointError`, and what `source_of` raises.
    """
    for name in engines:
        ENGINES[name]
    refused: dict[str, str] = {}
    source = source_of(target, recipe) if target.is_dir() or recipe is not None else None
    with tempfile.TemporaryDirectory() as scratch:
        if source is None:
            subjects = _as_it_is(target, engines)
        else:
            subjects, refused = _converted(source, engines or tuple(ENGINES), Path(scratch))
        timings = measure(subjects, plan, tell=tell)
        sizes = {subject.form: subject.path.stat().st_size for subject in subjects}
    refused |= timings.refused
    if refused and (engines or not timings.latencies):
        raise ModelError("; ".join(f"{what}: {why}" for what, why in refused.items()))
    record = LatencyRecord(
        name=source.recipe.name if source else target.name,
        bytes_on_disk=sizes,
        latencies=timings.latencies,
        refused=refused,
        machine=machine(),
    )
    place = out or (source.beside("latency.json") if source else target.with_name(f"{target.name}-latency.json"))
    write_text(place, record.model_dump_json(indent=1) + "\n")
    if source is not None:
        _keep(source, Timings(timings.latencies, refused))
    return place, record


def _keep(source: Source, timings: Timings) -> None:
    cost = counted(source.model, source.test.take(2, source.recipe.seed).pixels())
    source.keep(cost.model_copy(update={"latencies": timings.latencies, "refused": timings.refused}))


def _as_it_is(path: Path, engines: Sequence[str]) -> list[Subject]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file or run folder")
    able = [name for name in ENGINES if path.suffix in ENGINES[name].reads]
    chosen = engines or able
    unable = [name for name in chosen if path.suffix not in ENGINES[name].reads]
    if unable or not chosen:
        known = "; ".join(f"{name} reads {', '.join(ENGINES[name].reads)}" for name in unable or ENGINES)
        raise CheckpointError(f"{path}: {known}. `hedgerow export` writes such files")
    return [Subject(path.name, name, path) for name in chosen]


def _converted(source: Source, engines: Sequence[str], folder: Path) -> tuple[list[Subject], dict[str, str]]:
    """Write what the engines read; return their subjects, and why some have none."""
    images = source.test.take(_COMPARED, source.recipe.seed).pixels()
    sparse, onnx = folder / "sparse.safetensors", folder / "dense.onnx"
    subjects: list[Subject] = []
    refused: dict[str, str] = {}
    for name in engines:
        form, path = (BASELINE[0], onnx) if ".onnx" in ENGINES[name].reads else ("sparse", sparse)
        try:
            if not path.exists() and path == onnx:
                write_onnx(onnx, source.model, images)
            elif not path.exists():
                write_sparse(sparse, source.model, at_least_two(images))
            subjects.append(Subject(form, name, path))
        except (ModelError, MissingPackageError) as error:
            refused[f"{form} under {name}"] = str(error)
    return subjects, refused
