"""The security curve: accuracy under PGD at several radii, on the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor, nn

from hedgerow.checks import passing
from hedgerow.errors import DataError
from hedgerow.evaluation.attacked import evaluate
from hedgerow.evaluation.protocol import Protocol
from hedgerow.evaluation.statistics import measure
from hedgerow.result import AtEps, Evaluation, Measure
from hedgerow.threat import ThreatModel

CHECK = "a larger radius does not raise accuracy"


def add_curve(
    record: Evaluation,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    radii: Sequence[Fraction],
    threat: ThreatModel,
    protocol: Protocol,
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Add to the record of an evaluation the accuracy under its PGD at `radii` and at the threat's own.

    `x`, `y`, `model`, `threat` and `protocol` are those of the evaluation. What breaks an image at one radius is a
    change that a larger one allows too, so an image counts at a radius only if it stands at every smaller one as
    well. `CHECK` holds PGD's own counts against each other: accuracy that rises with the radius by more than its
    95 % interval says that the gradients mislead (1902.06705, section 4.2). With a `folder`, finished batches are
    kept there. Raises `DataError` for a radius of 0 or less, and what `evaluate` raises.
    """
    if any(eps <= 0 for eps in radii):
        raise DataError(f"the radii of a curve are above 0, not {min(radii)}; `clean` is the accuracy at 0")
    alone = replace(protocol, autoattack=False, attacks={}, integrity=0)
    standing = torch.ones(len(y), dtype=torch.bool)
    record.curve, counts, revived = [], [], 0
    for eps in sorted({*radii, threat.eps} - {Fraction(0)}):
        ball = threat.with_eps(eps)
        if eps == threat.eps:
            found = record
        else:
            place = folder and folder / f"radius-{eps}".replace("/", "_")
            found = evaluate(model, x, y, threat=ball, protocol=alone, folder=place, progress=progress).record
        flags = torch.tensor([word not in ("misclassified", "broken by pgd") for word in found.verdicts])
        revived += int((flags & ~standing).sum())
        standing &= flags
        pgd = found.measures["pgd"]
        counts.append(pgd)
        kept = measure(standing, f"{pgd.how}; and at every smaller radius of the curve", pgd.seed, pgd.seconds)
        record.curve.append(AtEps(eps=str(eps), **kept.model_dump()))
    record.checks[CHECK] = passing(
        not rises(counts),
        f"{revived} images stood at a radius though a smaller one had broken them",
        "PGD's counts held against the 95 % intervals of those at smaller radii",
    )


def rises(counts: Sequence[Measure]) -> bool:
    """Return whether an accuracy lies above the 95 % interval of one before it."""
    return any(m.accuracy > min(before.high for before in counts[:i]) for i, m in enumerate(counts) if i)
