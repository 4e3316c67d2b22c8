"""The network that is attacked in place of a masked one: the same function without its dead channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hedgerow.compact import shrink
from hedgerow.errors import ModelError
from hedgerow.stochastic import is_stochastic

CHECK = "the shrunk network answers as the masked one"
TOLERANCE = 1e-5
"""How far logits may be apart, as a share of the largest."""

_WHOLE_CHANNELS = ("channel", "filter")
_WORTHWHILE = 0.9  # of the FLOPs: with less to gain the masked network is attacked itself


@dataclass(frozen=True)
class Physical:
    """The network to attack; where a shrunk one was made, whether it computes the same, and the evidence."""

    model: nn.Module
    same: bool = True
    remark: str | None = None


def physical(model: nn.Module, images: Tensor, granularity: str) -> Physical:
    """Return `model` without its dead channels, where whole channels were pruned and a tenth of its work is saved.

    `images` is `[N, ...]` in [0,1], N at least 1: on the first 100 of them both must give the same logits, to
    1e-5 of the largest. Where they do not, where nothing can be removed, and for a stochastic model, it is
    `model` itself.
    """
    if granularity not in _WHOLE_CHANNELS or is_stochastic(model):
        return Physical(model)
    sample = images[:100]
    try:
        shrunk = shrink(model, sample[:1])
    except ModelError:  # its forward pass cannot be traced; it can be attacked all the same
        return Physical(model)
    before, after = shrunk.removal.flops
    if after > _WORTHWHILE * before:
        return Physical(model)
    apart = _apart(model, shrunk.model, sample)
    same = apart <= TOLERANCE
    found = f"logits at most {apart:.0e} of the largest apart on {len(sample)} images"
    share = f"{after / before:.1%} of the FLOPs"
    attacked = f"the shrunk one was attacked, {share}" if same else "the masked one was attacked"
    return Physical(shrunk.model if same else model, same, f"{found}; {attacked}")


@torch.no_grad()
def _apart(model: nn.Module, small: nn.Module, images: Tensor) -> float:
    model.eval()
    small.eval()
    expected = model(images)
    return float((small(images) - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
