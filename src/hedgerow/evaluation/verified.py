"""Verified accuracy beside the empirical one: proofs on the same images, and the two against each other."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from hedgerow.attacks import crafting
from hedgerow.bounds import Method
from hedgerow.certify import CERTIFIERS, Certifier, Ledger, gather, identify
from hedgerow.checks import passing
from hedgerow.evaluation.statistics import measure
from hedgerow.result import Evaluation
from hedgerow.threat import ThreatModel

MEASURE = "verified"
CHECK = "no example is both verified and broken"


def check_verifiable(model: nn.Module, x: Tensor, *, method: Method, threat: ThreatModel) -> None:
    """Raise `ModelError` when bounds do not cover this network, on images like `x`, `[N, ...]`."""
    with crafting(model) as inner, torch.no_grad():
        CERTIFIERS[method](threat).check(inner, x)


def add_verified(
    record: Evaluation,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    method: Method,
    threat: ThreatModel,
    folder: Path | None = None,
    batch_size: int = 500,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Add to the record of an evaluation how many of its images `method` proves, and whether it agrees with it.

    `x`, `y` are the images and labels of `record.examples`, and `threat` is what they were attacked with. An image
    is verified when its label is the proved class all over the ball; then no attack can have broken it. Every one
    that is both is named under the check `CHECK`, whose failure says that bounds or evaluation are wrong, or that
    two logits agree to the rounding of the float32 network, which bounds do not cover. With a `folder` evidence
    is kept there and not computed again. Raises what `gather` raises.
    """
    certifier: Certifier = CERTIFIERS[method](threat)
    identity = identify(model, certifier, method, x.device)
    kept = folder and folder / f"verified-{method}-{certifier.label}-{identity['network'][:12]}"
    before = time.monotonic()
    found = gather(
        model,
        x,
        certifier,
        positions=record.examples,
        batch_size=batch_size,
        ledger=Ledger(kept, identity) if kept else None,
        progress=progress,
    )
    proved = [certifier.conclude(evidence).prediction for evidence in found.values()]
    flags = [prediction == label for prediction, label in zip(proved, y.tolist(), strict=True)]
    seconds = time.monotonic() - before
    record.measures[MEASURE] = measure(torch.tensor(flags), certifier.describe(), certifier.seed, seconds)
    record.verified = flags
    pairs = zip(record.examples, flags, record.verdicts, strict=True)
    both = [example for example, verified, verdict in pairs if verified and verdict != "robust"]
    named = f": {', '.join(map(str, both[:10]))}{', ...' if len(both) > 10 else ''}" if both else ""
    record.checks[CHECK] = passing(
        not both, f"{len(both)} of {len(flags)} examples{named}", "proofs and verdicts held against each other"
    )
