"""The mechanism of sparsity: what can be pruned, how much, at which granularity, and how a mask acts."""

from hedgerow.sparsity.blocks import Blocks, NofM, parse_granularity
from hedgerow.sparsity.budget import DISTRIBUTIONS, Budget, budget_conflict, kept_count
from hedgerow.sparsity.coupling import (
    ChannelClasses,
    coupled_units,
    group_classes,
    traced_channels,
    traced_units,
)
from hedgerow.sparsity.effective import (
    EffectiveWeight,
    MaskedWeight,
    attach,
    attach_masks,
    detach,
    frozen_weights,
    read_masks,
    replaced_weights,
    shared_weights,
    sparse_view,
)
from hedgerow.sparsity.granularity import CHANNEL, FILTER, GRANULARITIES, KERNEL, WEIGHT, Granularity
from hedgerow.sparsity.layers import PrunableWeight, prunable_weights
from hedgerow.sparsity.mask import Count, Masks, bake, count_nonzero, total_count
from hedgerow.sparsity.topk import threshold_for, topk_mask
from hedgerow.sparsity.unit import Unit
from hedgerow.sparsity.units import Units, separate_units

__all__ = [
    "CHANNEL",
    "DISTRIBUTIONS",
    "FILTER",
    "GRANULARITIES",
    "KERNEL",
    "WEIGHT",
    "Blocks",
    "Budget",
    "ChannelClasses",
    "Count",
    "EffectiveWeight",
    "Granularity",
    "MaskedWeight",
    "Masks",
    "NofM",
    "PrunableWeight",
    "Unit",
    "Units",
    "attach",
    "attach_masks",
    "bake",
    "budget_conflict",
    "count_nonzero",
    "coupled_units",
    "detach",
    "frozen_weights",
    "group_classes",
    "kept_count",
    "parse_granularity",
    "prunable_weights",
    "read_masks",
    "replaced_weights",
    "separate_units",
    "shared_weights",
    "sparse_view",
    "threshold_for",
    "topk_mask",
    "total_count",
    "traced_channels",
    "traced_units",
]
