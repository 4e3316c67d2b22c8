"""Masks: one boolean tensor per weight, True where the weight is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hedgerow.errors import ModelError
from hedgerow.sparsity.layers import PrunableWeight, prunable_weights

Masks = dict[str, Tensor]


@dataclass(frozen=True)
class Count:
    """Kept and total entries of one weight or of a whole network."""

    kept: int
    total: int

    @property
    def density(self) -> float:
        """Kept share, between 0 and 1."""
        return self.kept / self.total

    @property
    def sparsity(self) -> float:
        """Removed share, between 0 and 1."""
        return 1.0 - self.kept / self.total


def count_nonzero(model: nn.Module) -> dict[str, Count]:
    """Count the non-zero entries of every prunable weight as the network uses it now, by name."""
    counts = {}
    for name, weight in prunable_weights(model).items():
        values = getattr(weight.module, weight.attribute)
        counts[name] = Count(int(torch.count_nonzero(values)), values.numel())
    return counts


def total_count(counts: Mapping[str, Count]) -> Count:
    """Add up per-layer counts."""
    return Count(sum(c.kept for c in counts.values()), sum(c.total for c in counts.values()))


def bake(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set every masked-out weight to exactly 0 (never -0, never NaN), in place."""
    weights = match(model, masks)
    with torch.no_grad():
        for name, mask in masks.items():
            dense = weights[name].dense
            dense.masked_fill_(~mask.to(dense.device), 0.0)


def match(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, PrunableWeight]:
    """Return the prunable weights after checking that `masks` fits them; `ModelError` names what does not."""
    weights = prunable_weights(model)
    unknown = sorted(set(masks) - set(weights))
    missing = sorted(set(weights) - set(masks))
    if unknown or missing:
        raise ModelError(
            "the masks are of another model: "
            + "; ".join(
                text
                for text in (
                    f"no such weight: {', '.join(unknown[:5])}" if unknown else "",
                    f"no mask for: {', '.join(missing[:5])}" if missing else "",
                )
                if text
            )
        )
    for name, mask in masks.items():
        expected = weights[name].dense.shape
        if mask.shape != expected or mask.dtype != torch.bool:
            raise ModelError(f"mask of {name}: is {mask.dtype} {list(mask.shape)}, expected bool {list(expected)}")
    return weights
