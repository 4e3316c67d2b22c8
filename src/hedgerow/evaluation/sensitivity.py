"""How much robust accuracy hangs on each layer: what is lost when that layer alone is pruned further."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from hedgerow.errors import DataError
from hedgerow.evaluation.attacked import evaluate
from hedgerow.evaluation.protocol import Protocol
from hedgerow.result import LayerLoss, Sensitivity
from hedgerow.sparsity import prunable_weights
from hedgerow.threat import ThreatModel


def layer_sensitivity(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    share: float,
    threat: ThreatModel,
    protocol: Protocol | None = None,
    split: str = "validation",
) -> Sensitivity:
    """Return the accuracy under PGD with `share` of one layer's non-zero weights zeroed, for every prunable layer.

    The smallest magnitudes go, nothing is trained afterwards, and the model is left as it was. `x` `[N, ...]` in
    [0,1] and `y` `[N]` are best of the `split` that chose checkpoints already: these numbers are no estimate of
    accuracy. PGD is that of `protocol`, 10 steps and one restart unless given. Raises `DataError` for a share
    outside (0, 1], and what `evaluate` raises.
    """
    if not 0 < share <= 1:
        raise DataError(f"share {share} of a layer's weights cannot be removed; give more than 0 and at most 1")
    protocol = replace(protocol or Protocol(pgd_steps=10, pgd_restarts=1, autoattack=False), integrity=0)
    whole = evaluate(model, x, y, threat=threat, protocol=protocol).record.measures["pgd"]
    layers = []
    for name, weight in prunable_weights(model).items():
        with _pruned_further(weight.dense, share) as removed:
            found = evaluate(model, x, y, threat=threat, protocol=protocol).record.measures["pgd"]
        layers.append(LayerLoss(layer=name, removed=removed, measure=found))
    return Sensitivity(split=split, share=share, whole=whole, layers=layers)


@contextmanager
def _pruned_further(weight: Tensor, share: float) -> Iterator[int]:
    """Zero the smallest `share` of the non-zero weights for a while; give how many that are."""
    before = weight.detach().clone()
    removed = round(share * int(before.count_nonzero()))
    sizes = before.abs().flatten().masked_fill(before.flatten() == 0, torch.inf)
    try:
        with torch.no_grad():
            weight.view(-1)[sizes.argsort(stable=True)[:removed]] = 0
        yield removed
    finally:
        with torch.no_grad():
            weight.copy_(before)
