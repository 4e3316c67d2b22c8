"""FGSM: one full step along the gradient's sign (Goodfellow et al., 1412.6572, eq. in section 4)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.attacks.crafting import check_images, crafting
from hedgerow.attacks.template import ascend
from hedgerow.stochastic import averaged
from hedgerow.threat import ThreatModel


def fgsm(model: nn.Module, x: Tensor, y: Tensor, *, threat: ThreatModel) -> Tensor:
    """Return `[N, ...]` images one step of size eps away, inside the ball and [0,1].

    `x` is `[N, ...]` float in [0,1], `y` `[N]` int64. Under l2 the step is the normalised gradient. Of a
    stochastic model it is the gradient of one draw, or the mean of several where it is given as `Averaged`.
    Raises `DataError` for pixels or labels outside their range.
    """
    check_images(x, y)
    with crafting(model) as inner:
        return ascend(
            averaged(inner),
            x,
            threat=threat,
            start=x,
            loss=lambda logits, index: F.cross_entropy(logits, y[index], reduction="none"),
            steps=1,
            step_size=float(threat.eps),
        )
