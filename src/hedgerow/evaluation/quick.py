"""The yardstick of model selection: clean accuracy and accuracy under a short PGD."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hedgerow.attacks import crafting, pgd
from hedgerow.stochastic import averaged
from hedgerow.threat import ThreatModel


def quick_accuracy(
    model: nn.Module, x: Tensor, y: Tensor, *, threat: ThreatModel, steps: int = 10, seed: int = 0
) -> dict[str, float]:
    """Return `clean` and `robust` accuracy (PGD, one restart), 0 to 1: the yardstick of model selection.

    A model that says that it is stochastic is attacked and judged by single draws from `seed`.
    """
    with crafting(model) as inner, torch.no_grad():
        judge = averaged(inner, seed=seed)
        clean = torch.cat([judge(part).argmax(1) for part in torch.split(x, 500)]) == y
        robust = 0
        if clean.any():  # not every model takes an empty batch
            found = pgd(judge, x[clean], y[clean], threat=threat, steps=steps, restarts=1, seed=seed)
            kept = torch.cat([judge(part).argmax(1) for part in torch.split(found, 500)]) == y[clean]
            robust = int(kept.sum())
    return {"clean": clean.sum().item() / len(y), "robust": robust / len(y)}
