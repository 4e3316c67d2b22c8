"""The worst cross-entropy by one linear bound for all classes together (loss fusion: Xu et al., 2002.12920)."""

from __future__ import annotations

import torch
from torch import Tensor

from hedgerow.bounds import Walk, interval_least, linear_least


def fused_loss(walk: Walk, rows: Tensor, least: Tensor) -> Tensor:
    """Return an upper bound, `[N]`, of the cross-entropy at every point of the region that was walked.

    `rows` `[N, C, C]` are the margins z_y - z_j as functions of the logits, `least` `[N, C]` interval bounds from
    below of these, as `interval_least` gives them. The cross-entropy is log sum exp(m_j) for m_j = z_j - z_y;
    over the interval of m_j the exponential lies below its chord, so that the sum lies below one linear function
    of the logits (2002.12920, section 3.3). Bounding this takes one function carried back and not C. Never above
    what intervals alone say.
    """
    top, low = -least, interval_least(walk, -rows)
    shift = top.detach().amax(1, keepdim=True)  # exponentials of at most 1
    high, deep = (top - shift).exp(), (low - shift).exp()
    width = top - low
    wide = width > 1e-6 * (1 + top.abs())
    slope = torch.where(wide, (high - deep) / torch.where(wide, width, torch.ones_like(width)), high)
    line = -linear_least(walk, slope.unsqueeze(1) @ rows).squeeze(1) + (high - slope * top).sum(1)
    total = torch.minimum(line, high.sum(1))
    return shift.squeeze(1) + total.clamp_min(torch.finfo(total.dtype).tiny).log()
