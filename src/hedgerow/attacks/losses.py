"""What attacks raise: losses `[N]` of logits `[N, C]` and labels `[N]`; larger is worse for the model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_TINY = 1e-12


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return -log of the probability of the label."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the best other logit minus the label's: above 0 where the example is misclassified."""
    others = logits.masked_fill(F.one_hot(y, logits.shape[1]).bool(), -torch.inf)
    return others.amax(1) - _of(logits, y)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return the difference-of-logits ratio (2003.01690, eq. 4): the margin over first minus third largest logit.

    It is the same for logits shifted or scaled. With two classes there is no third logit, and the cross-entropy
    stands in.
    """
    if logits.shape[1] < 3:
        return cross_entropy(logits, y)
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + _TINY)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return the ratio for one target class `[N]` (2003.01690, eq. 5): (z_t - z_y) / (z_1 - (z_3 + z_4) / 2).

    z_1, z_3 and z_4 are the largest, third and fourth largest logits. With three classes z_3 stands for the mean;
    with two the cross-entropy for the ratio, as there is one target only.
    """
    if logits.shape[1] < 3:
        return cross_entropy(logits, y)
    top = logits.topk(min(4, logits.shape[1]), dim=1).values
    return (_of(logits, target) - _of(logits, y)) / (top[:, 0] - top[:, 2:].mean(1) + _TINY)


def likeliest_other(logits: Tensor, y: Tensor, rank: int) -> Tensor:
    """Return the classes `[N]` other than the label whose logits are of that rank; 0 is the largest."""
    others = logits.masked_fill(F.one_hot(y, logits.shape[1]).bool(), -torch.inf)
    return others.argsort(dim=1, descending=True, stable=True)[:, rank]


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)
