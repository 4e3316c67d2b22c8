"""Certification of a finished run, or of a user's own weights: evidence in a folder, then a record and a plot."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hedgerow.certify import CERTIFIERS, Certifier, Ledger, Shard, gather, identify
from hedgerow.checks import passing
from hedgerow.description import granularity_of
from hedgerow.errors import CertificationError, RecipeError
from hedgerow.evaluation import summarise_certificates
from hedgerow.files import write_text
from hedgerow.physical import CHECK, Physical, physical
from hedgerow.pipeline import dataset_of, device_of, model_of
from hedgerow.recipe import construct
from hedgerow.recipe.parts import option_model
from hedgerow.recipe.problems import describe_errors
from hedgerow.reevaluate import read_target
from hedgerow.report.certified import certified_plot, certified_table
from hedgerow.report.words import duration
from hedgerow.result import Certification
from hedgerow.runfolder import load_weights, one_writer
from hedgerow.threat import ThreatModel, parse_fraction

_TELL_EVERY = 5.0


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to certify, and how much of it.

    `options` are the method's own; `examples` test images are drawn by the recipe's seed as for its evaluation,
    and as many unless given; `radii` are for the table, the method's unless given; after `minutes` it stops.
    Raises `CertificationError` for radii below 0, and for no examples or minutes.
    """

    method: str = "smoothing"
    options: Mapping[str, Any] = field(default_factory=dict)
    examples: int | None = None
    radii: Sequence[float] | None = None
    shard: Shard = field(default_factory=Shard)
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.examples is not None and self.examples < 1:
            raise CertificationError(f"examples is {self.examples}; give 1 or more, or leave it out")
        if self.minutes is not None and not self.minutes > 0:
            raise CertificationError(f"minutes is {self.minutes}; give a time above 0, or leave it out")
        if self.radii is not None and not (self.radii and all(0 <= r < math.inf for r in self.radii)):
            raise CertificationError(f"radii are {list(self.radii)}; give distances of 0 or more")


@dataclass(frozen=True)
class Certified:
    """Where the evidence is, of how many images, and the record once none is missing."""

    folder: Path
    known: int
    total: int
    record: Certification | None


def certify_target(
    target: Path,
    order: Order,
    *,
    recipe: str | None = None,
    changes: Mapping[str, Any] | None = None,
    out: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Certified:
    """Certify a run folder's network, or a weights file under `recipe`, on test images; go on where it stopped.

    Writes `certify.json`, `certify.csv` and `certify.svg` to the folder `out` (for a run: in its folder) when all
    images of all shards are done. Raises `CheckpointError` for an unfinished run and for a folder that holds
    another certification, `RecipeError` for options that the method does not take, and what `gather` raises.
    """
    loaded, weights = read_target(target, recipe, changes or {})
    certifier = certifier_of(order.method, order.options, loaded.seed, loaded.threat.build())
    data, device = dataset_of(loaded), device_of(loaded)
    model = model_of(loaded, data)
    load_weights(model, weights)
    model.to(device).eval()
    test = data.test.take(order.examples or loaded.evaluation.examples, loaded.seed).resident().to(device)
    identity = identify(model, certifier, order.method, device)
    asked = Physical(model)
    if certifier.asks:
        asked = physical(model, test.pixels(), granularity_of(loaded), times=certifier.asks)
        identity["asked"] = type(asked.model).__name__
    folder = out or default_folder(target, certifier, order.method)
    shard, deadline = order.shard, time.monotonic() + 60 * (order.minutes or math.inf)
    with one_writer(folder / "evidence" / str(shard)):
        found = gather(
            asked.model,
            test.pixels(),
            certifier,
            positions=test.positions.tolist(),
            batch_size=loaded.evaluation.batch_size,
            ledger=Ledger(folder / "evidence", identity, shard),
            shard=shard,
            progress=_Progress(f"{loaded.name} {order.method} {shard.number}/{shard.count}", tell),
            stop=lambda: time.monotonic() > deadline,
        )
    if len(found) < len(test):
        return Certified(folder, len(found), len(test), None)
    labels = dict(zip(test.positions.tolist(), test.labels.tolist(), strict=True))
    record = summarise_certificates(
        certifier, found, labels, method=order.method, network=identity["network"], split="test", radii=order.radii
    )
    if asked.remark:
        record.checks[CHECK] = passing(asked.same, asked.remark, "both on real images")
    write_certification(record, folder)
    return Certified(folder, len(found), len(test), record)


def write_certification(record: Certification, folder: Path) -> None:
    """Write the record, the table and the plot; the same record gives the same bytes."""
    write_text(folder / "certify.csv", certified_table(record))
    write_text(folder / "certify.svg", certified_plot(record, "certified").svg())
    write_text(folder / "certify.json", record.model_dump_json(indent=1) + "\n")


def certifier_of(
    method: str, options: Mapping[str, Any], seed: int, threat: ThreatModel | None = None
) -> Certifier:
    """Return a registered method, or one by `package.module:name`, with its options.

    Raises `UnknownNameError`, `RecipeError` for options that it does not take or misses, and its own errors.
    """
    part = CERTIFIERS[method]
    accepted = option_model(part, known=[])
    try:
        accepted.model_validate(options)
    except ValidationError as error:
        raise RecipeError(f"certify --method {method}", describe_errors(accepted, error)) from error
    made: Certifier = construct(part, options, seed=seed, threat=threat or ThreatModel())
    return made


def default_folder(target: Path, certifier: Certifier, method: str) -> Path:
    """Return `certify-smoothing-0.25` in a run folder, or beside a weights file with its name before it."""
    name = f"certify-{method.replace(':', '.')}-{certifier.label}"
    return target / name if target.is_dir() else target.with_name(f"{target.stem}-{name}")


def parse_radii(text: str) -> list[float] | None:
    """Read `0,110/255,0.5`; None for no text. Raises `CertificationError` for anything that is not a number."""
    try:
        return [float(parse_fraction(part.strip())) for part in text.split(",")] if text else None
    except ValueError as error:
        raise CertificationError(f"radii {text!r}: {error}") from error


def summary_lines(record: Certification, *, every: int = 1) -> list[str]:
    """Return what a terminal shows: accuracies, at every `every`-th radius, and how they were obtained."""
    ((name, plain),) = record.plain.items()
    rows = [(name, plain), *((f"radius {at.radius:.4g}", at) for at in record.curve[::every])]
    lines = [f"{text:<15} {m.accuracy:7.2%}  [{m.low:.2%}, {m.high:.2%}]  {m.correct}/{m.n}" for text, m in rows]
    failed = [f"FAILED: {check}" for check, found in record.checks.items() if found.failed]
    return [*lines, f"abstained on {record.abstained} of {plain.n}; {record.how}, seed {plain.seed}", *failed]


class _Progress:
    """Tells now and then how far it is and how long it will take; of the last image always."""

    def __init__(self, what: str, tell: Callable[[str], None]) -> None:
        self.what, self.tell = what, tell
        self.since = self.told = -math.inf
        self.before = 0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.since == -math.inf:
            self.since, self.before = now, done
        if done < total and now - self.told < _TELL_EVERY:
            return
        self.told = now
        fresh, spent = done - self.before, now - self.since
        left = f", {duration(spent / fresh * (total - done))} left" if fresh and done < total else ""
        self.tell(f"{self.what} certified {done}/{total} images in {duration(spent)}{left}")
