"""The few attacked images of a run that its page shows."""

from __future__ import annotations

from pathlib import Path

import torch

from hedgerow.data import Split
from hedgerow.evaluation import Evaluated
from hedgerow.files import write_tensors
from hedgerow.threat import ThreatModel


def write_gallery(
    path: Path, test: Split, found: Evaluated, *, threat: ThreatModel, attack: str, count: int
) -> None:
    """Write `count` of the evaluated images, before and after the `attack` named, and what was said of them."""
    shown = worth_showing(test.labels, found.clean_predictions == test.labels, count)
    write_tensors(
        path,
        {
            "clean": test.images[shown],
            "adversarial": found.adversarial[shown],
            "labels": test.labels[shown],
            "clean_predictions": found.clean_predictions[shown],
            "adversarial_predictions": found.adversarial_predictions[shown],
        },
        {"eps": str(threat.eps), "norm": threat.norm, "attack": attack},
    )


def worth_showing(labels: torch.Tensor, right: torch.Tensor, count: int) -> torch.Tensor:
    """Return the positions of `count` images in turn of each class, those that had to be attacked first."""
    seen: dict[tuple[bool, int], int] = {}
    keys = []
    for position, (label, correct) in enumerate(zip(labels.tolist(), right.tolist(), strict=True)):
        turn = seen.get((correct, label), 0)
        seen[correct, label] = turn + 1
        keys.append((not correct, turn, label, position))
    return torch.tensor([key[-1] for key in sorted(keys)[:count]], dtype=torch.int64)
