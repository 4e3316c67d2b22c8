"""Certified accuracy: for how many images the right class is proved, and how far around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hedgerow.certify import Certifier, Evidence
from hedgerow.checks import passing
from hedgerow.evaluation.statistics import measure
from hedgerow.evaluation.verdicts import more_than_one_class
from hedgerow.result import AtRadius, Certificate, Certification


def summarise_certificates(
    certifier: Certifier,
    evidence: Mapping[int, Evidence],
    labels: Mapping[int, int],
    *,
    method: str,
    network: str,
    split: str = "given",
    radii: Sequence[float] | None = None,
) -> Certification:
    """Return the record of `{position: evidence}`, with labels by position; the same evidence, the same record.

    Certified accuracy at a radius counts the images whose label is the proved class and whose own radius is at
    least that; at 0 these are all that did not abstain and are right. Its 95 % interval is over images alone:
    that each certificate may be wrong with some probability is in `how`. `radii` are the certifier's by default.
    """
    certificates = [
        Certificate(
            example=position,
            label=labels[position],
            prediction=proof.prediction,
            radius=proof.radius,
            answer=proof.answer,
            evidence=found,
        )
        for position, found in evidence.items()
        for proof in [certifier.conclude(found)]
    ]
    answers = torch.tensor([c.answer for c in certificates])
    y = torch.tensor([c.label for c in certificates])
    plain = measure(answers == y, certifier.answer_how, certifier.seed)
    curve = [_at(radius, certificates, certifier) for radius in (certifier.radii() if radii is None else radii)]
    return Certification(
        method=method,
        norm=certifier.norm,
        settings=certifier.settings(),
        how=certifier.describe(),
        network=network,
        split=split,
        plain={certifier.answer_name: plain},
        curve=curve,
        abstained=sum(c.prediction is None for c in certificates),
        checks={
            "certified accuracy is not above plain accuracy": passing(
                all(at.correct <= plain.correct for at in curve),
                f"{max((at.correct for at in curve), default=0)} certified, {plain.correct} right without proof",
                "counts of the curve",
            ),
            "plain predictions are of more than one class": more_than_one_class(answers, y),
        },
        certificates=certificates,
    )


def standing(certificates: Sequence[Certificate], radius: float) -> Tensor:
    """Return `[N]` booleans: whether the label is the proved class, to `radius` or farther."""
    return torch.tensor([c.prediction == c.label and c.radius >= radius for c in certificates], dtype=torch.bool)


def _at(radius: float, certificates: Sequence[Certificate], certifier: Certifier) -> AtRadius:
    found = measure(standing(certificates, radius), certifier.describe(), certifier.seed)
    return AtRadius(radius=radius, **found.model_dump())
