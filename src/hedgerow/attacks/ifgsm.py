"""I-FGSM, the basic iterative method: small signed steps from the image itself (Kurakin et al., 1607.02533)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.attacks.crafting import check_images, crafting
from hedgerow.attacks.template import ascend
from hedgerow.stochastic import averaged
from hedgerow.threat import ThreatModel


def ifgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    steps: int = 20,
    step_size: float | None = None,
) -> Tensor:
    """Return `[N, ...]` images after `steps` steps of `step_size` (pixel units) along the gradient's sign.

    `x` is `[N, ...]` float in [0,1], `y` `[N]` int64. There is no random start, and it is the last point that
    counts, as published. The papers on Feynman-Kac networks (1811.10745, 2003.00631) report 20 steps and neither
    they nor their program confirm a step size: eps / 4 unless given, that of their adversarial training. Under l2
    the step is the normalised gradient. Raises `DataError` for pixels or labels outside their range.
    """
    check_images(x, y)
    with crafting(model) as inner:
        return ascend(
            averaged(inner),
            x,
            threat=threat,
            start=x,
            loss=lambda logits, index: F.cross_entropy(logits, y[index], reduction="none"),
            steps=steps,
            step_size=float(threat.eps) / 4 if step_size is None else step_size,
        )
