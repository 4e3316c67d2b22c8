"""`hedgerow export`: files, their sizes and times, what is left of robustness in them, and the record."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hedgerow.engines.timing import Plan, Subject, measure
from hedgerow.errors import HedgerowError, MissingPackageError, ModelError
from hedgerow.export import FORMS, Agreement, Material, write_form, write_onnx
from hedgerow.exporting.source import counted, protocol_of, source_of
from hedgerow.exporting.verify import survivals
from hedgerow.files import write_text
from hedgerow.report.costs import BASELINE
from hedgerow.result import Cost, ExportRecord, StoredForm

FORMATS = ("sparse", "shrunk", "onnx", "shrunk-onnx", "torch-export", "sparse-int8", "onnx-int8")
_COMPARED = 256
_CALIBRATED = 512
Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to write, how to time it, and on how many test images to attack it (0: on none).

    `multiple_of` is `shrink`'s. Raises `ModelError` for no formats and for a number of images below 0,
    `UnknownNameError` for a format that is not known.
    """

    formats: Sequence[str] = FORMATS
    plan: Plan = field(default_factory=Plan)
    multiple_of: int = 16
    verify: int = 0

    def __post_init__(self) -> None:
        if not self.formats:
            raise ModelError(f"no format given; known: {', '.join(FORMS)}")
        for name in self.formats:
            FORMS[name]
        if self.verify < 0:
            raise ModelError(f"verify is {self.verify}; give the number of test images to attack, 0 for none")


@dataclass(frozen=True)
class Exported:
    """The folder of the files, and the record, which stands in its `export.json` too."""

    folder: Path
    record: ExportRecord


def export_target(
    target: Path,
    order: Order,
    *,
    recipe: str | None = None,
    out: Path | None = None,
    tell: Tell = lambda text: None,
) -> Exported:
    """Write the network of a run folder, or of a weights file under `recipe`, in every format of the order.

    Each file is compared with the network on 256 test images, then timed. Files and `export.json` go to `out` (for
    a run: `export` in its folder); `result.json` and the page of a run take the record up. A format that the
    network or this installation cannot have is named in the record; when none could be written, its error is
    raised.
    """
    source = source_of(target, recipe)
    folder = out or source.beside("export")
    seed = source.recipe.seed
    material = Material(
        source.model,
        source.test.take(_COMPARED, seed).pixels(),
        source.train.take(_CALIBRATED, seed).pixels(),
        multiple_of=order.multiple_of,
        about={"recipe": source.recipe.dump()},
    )
    cost = counted(source.model, material.images)
    files = _written(order.formats, folder, material, cost, tell)
    _timed(files, material, cost, order.plan, tell)
    survived = []
    if order.verify:
        chosen = source.test.take(order.verify, seed)
        survived = survivals(
            source.model,
            files,
            chosen.pixels(),
            chosen.labels,
            threat=source.recipe.threat.build(),
            protocol=protocol_of(source.recipe),
            tell=tell,
        )
    record = ExportRecord(name=source.recipe.name, cost=cost, survival=survived)
    write_text(folder / "export.json", record.model_dump_json(indent=1) + "\n")
    source.keep(cost, survived)
    return Exported(folder, record)


def _written(formats: Sequence[str], folder: Path, material: Material, cost: Cost, tell: Tell) -> dict[str, Path]:
    files: dict[str, Path] = {}
    first: HedgerowError | None = None
    for name in formats:
        tell(f"writing {name}")
        try:
            path, agreed = write_form(name, folder, material)
        except (ModelError, MissingPackageError) as error:
            first = first or error
            cost.refused[name] = str(error)
            continue
        tell(f"{name}: {agreed}")
        files[name] = path
        cost.forms.append(stored(name, path, agreed))
    if first is not None and not files:
        raise first
    return files


def stored(name: str, path: Path, agreed: Agreement) -> StoredForm:
    """Return the record of a file."""
    content = path.read_bytes()
    return StoredForm(
        form=name,
        file=path.name,
        bytes=len(content),
        zipped=len(zlib.compress(content, 6)),
        images=agreed.images,
        largest_difference=agreed.largest,
        relative_difference=agreed.relative,
        same_class=agreed.same_class,
    )


def _timed(files: Mapping[str, Path], material: Material, cost: Cost, plan: Plan, tell: Tell) -> None:
    subjects = [Subject(name, FORMS[name].engine, path) for name, path in files.items()]
    with tempfile.TemporaryDirectory() as scratch:
        yardstick = files.get("onnx") or Path(scratch) / "dense.onnx"
        try:
            if "onnx" not in files and "onnx" not in cost.refused:
                write_onnx(yardstick, material.model, material.images)
            if yardstick.exists():
                subjects.insert(0, Subject(*BASELINE, yardstick))
        except (ModelError, MissingPackageError) as error:
            cost.refused[" under ".join(BASELINE)] = str(error)
        timings = measure(subjects, plan, tell=tell)
    cost.latencies, cost.refused = timings.latencies, {**cost.refused, **timings.refused}
