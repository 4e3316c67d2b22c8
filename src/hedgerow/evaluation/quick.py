"""The yardstick of model selection: clean accuracy and accuracy under a short PGD."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hedgerow.attacks import crafting, pgd
from hedgerow.stochastic import averaged
from hedgerow.threat import ThreatModel

_NUMBERS = 500 * 3 * 32 * 32  # of pixels in a batch: memory is then about the same whatever the images' size


def quick_accuracy(
    model: nn.Module, x: Tensor, y: Tensor, *, threat: ThreatModel, steps: int = 10, seed: int = 0
) -> dict[str, float]:
    """Return `clean` and `robust` accuracy (PGD, one restart), 0 to 1: the yardstick of model selection.

    A model that says that it is stochastic is attacked and judged by single draws from `seed`. Images are taken in
    batches of 500 at 32x32, and of fewer when they are larger.
    """
    size = max(1, min(500, _NUMBERS // max(1, x[:1].numel())))
    with crafting(model) as inner, torch.no_grad():
        judge = averaged(inner, seed=seed)
        clean = torch.cat([judge(part).argmax(1) for part in torch.split(x, size)]) == y
        robust = 0
        if clean.any():  # not every model takes an empty batch
            work = {"steps": steps, "restarts": 1, "seed": seed, "batch_size": size}
            found = pgd(judge, x[clean], y[clean], threat=threat, **work)
            kept = torch.cat([judge(part).argmax(1) for part in torch.split(found, size)]) == y[clean]
            robust = int(kept.sum())
    return {"clean": clean.sum().item() / len(y), "robust": robust / len(y)}
