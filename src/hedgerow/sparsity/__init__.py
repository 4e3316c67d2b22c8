"""The mechanism of sparsity: what can be pruned, how much, at which granularity, and how a mask acts."""

from hedgerow.sparsity.budget import DISTRIBUTIONS, Budget, kept_count
from hedgerow.sparsity.effective import (
    EffectiveWeight,
    MaskedWeight,
    attach,
    attach_masks,
    detach,
    frozen_weights,
    read_masks,
    shared_weights,
    sparse_view,
)
from hedgerow.sparsity.granularity import CHANNEL, FILTER, GRANULARITIES, KERNEL, WEIGHT, Granularity
from hedgerow.sparsity.layers import PrunableWeight, prunable_weights
from hedgerow.sparsity.mask import Count, Masks, bake, count_nonzero, total_count
from hedgerow.sparsity.topk import topk_mask

__all__ = [
    "CHANNEL",
    "DISTRIBUTIONS",
    "FILTER",
    "GRANULARITIES",
    "KERNEL",
    "WEIGHT",
    "Budget",
    "Count",
    "EffectiveWeight",
    "Granularity",
    "MaskedWeight",
    "Masks",
    "PrunableWeight",
    "attach",
    "attach_masks",
    "bake",
    "count_nonzero",
    "detach",
    "frozen_weights",
    "kept_count",
    "prunable_weights",
    "read_masks",
    "shared_weights",
    "sparse_view",
    "topk_mask",
    "total_count",
]
