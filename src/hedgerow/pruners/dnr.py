"""DNR: dynamic network rewiring, a sparse network from scratch in one run (Kundu et al., 2011.03083)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from hedgerow.pruners.base import PRUNERS, Progress
from hedgerow.pruners.rewiring import Rewiring, drop_smallest, grow_largest, round_up
from hedgerow.sparsity import Budget

_FEW_ZEROS = 0.2  # a layer with a smaller share of zeros that asks for more than its part loses less
_FILL = 99  # percent of a layer's free places that regrowth may fill


def layer_shares(momenta: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, float]:
    """Return mu_l: the mean |v| over the live weights of each layer, normalised to sum 1; equal if all are 0."""
    means = {name: v[masks[name]].abs().double().mean().item() for name, v in momenta.items()}
    total = sum(means.values())
    return {name: mean / total if total else 1.0 / len(means) for name, mean in means.items()}


def removal_counts(
    live: Mapping[str, int], sizes: Mapping[str, int], shares: Mapping[str, float], removal: float
) -> dict[str, int]:
    """Return how many live weights each layer gives up: ceil(p_l * live_l), and never its last one.

    p_l is `removal`; in a layer with under 20 % zeros whose share is above 1/L, at most its share of zeros.
    """
    counts = {}
    for name, alive in live.items():
        zeros = (sizes[name] - alive) / sizes[name]
        held_back = zeros < _FEW_ZEROS and shares[name] > 1.0 / len(live)
        p = min(removal, zeros) if held_back else removal
        counts[name] = min(round_up(p * alive), alive - 1)
    return counts


def growth_counts(removed: int, free: Mapping[str, int], shares: Mapping[str, float]) -> dict[str, int]:
    """Return how many weights each layer regrows, `removed` in all, exactly.

    A layer gets ceil(mu_l * removed), at most 99 % of its free places; what exceeds them goes to the other
    layers in proportion to mu. The surplus of rounding up is taken back where it was largest, one weight a layer.
    When the caps together hold fewer than `removed`, all free places may be filled.
    """
    caps = {name: places * _FILL // 100 for name, places in free.items()}
    if sum(caps.values()) < removed:
        caps = dict(free)
    grown: dict[str, int] = {}
    open_layers = list(free)
    while open_layers:
        left = removed - sum(grown.values())
        total = sum(shares[name] for name in open_layers)
        exact = {n: left * (shares[n] / total if total else 1.0 / len(open_layers)) for n in open_layers}
        full = [name for name in open_layers if round_up(exact[name]) > caps[name]]
        if not full:
            return {name: grown[name] if name in grown else n for name, n in _settle(exact, left, grown, free)}
        grown |= {name: caps[name] for name in full}
        open_layers = [name for name in open_layers if name not in grown]
    return {name: grown[name] for name in free}
