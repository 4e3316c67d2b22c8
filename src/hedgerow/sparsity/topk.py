"""Selecting the largest scores, the same ones on every device."""

from __future__ import annotations

import torch
from torch import Tensor


def topk_mask(scores: Tensor, keep: int) -> Tensor:
    """Return the boolean mask of the `keep` largest `scores`, of the same shape, with exactly `keep` True.

    The threshold comes from a selection, not a sort. Ties: of equal scores the lower flat index is removed
    first, on every device. Raises `ValueError` unless `0 <= keep <= scores.numel()`, or when a score is NaN.
    """
    flat = scores.detach().flatten()
    total = flat.numel()
    if not 0 <= keep <= total:
        raise ValueError(f"cannot keep {keep} of {total} scores")
    if keep in (0, total):
        return torch.full_like(scores, bool(keep), dtype=torch.bool)
    threshold = flat.kthvalue(total - keep + 1).values
    if threshold.isnan() or flat.sum().isnan():
        raise ValueError("a score is NaN; no mask can be chosen")
    above = flat > threshold
    tied = flat == threshold
    wanted = keep - above.sum()
    last_first = tied.flip(0).cumsum(0).flip(0)
    return (above | (tied & (last_first <= wanted))).view_as(scores)


def threshold_for(norms: Tensor, keep: int) -> Tensor:
    """Return the largest of the norms that are removed when `keep` remain, a scalar; 0 when none is removed.

    Ties with it fall too. Raises `ValueError` unless `0 <= keep <= norms.numel()`.
    """
    flat = norms.detach().flatten()
    if not 0 <= keep <= flat.numel():
        raise ValueError(f"cannot keep {keep} of {flat.numel()} norms")
    if keep == flat.numel():
        return torch.zeros((), dtype=flat.dtype, device=flat.device)
    return flat.kthvalue(flat.numel() - keep).values
