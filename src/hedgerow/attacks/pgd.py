"""PGD: projected gradient ascent on the cross-entropy (Madry et al., 1706.06083, section 2.1)."""

from __future__ import annotations

from torch import Tensor, nn

from hedgerow.attacks.losses import cross_entropy
from hedgerow.attacks.survivors import climb, until_broken
from hedgerow.threat import ThreatModel


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    steps: int = 50,
    step_size: float | None = None,
    restarts: int = 5,
    seed: int = 0,
    batch_size: int = 500,
) -> Tensor:
    """Return `[N, ...]` adversarial images, each misclassified wherever PGD found one that is.

    `x` is `[N, ...]` float in [0,1], `y` `[N]` int64; `step_size` is in pixel units (eps / 4 by default).
    An image that is misclassified as it stands comes back unchanged; an example leaves the work as soon as it
    is broken. Starts are uniform in the ball and drawn from `seed` for all images and restarts alike, so that
    neither `batch_size` nor the fate of other images changes them. A stochastic model is attacked by one draw for
    each gradient and judged by another, both from `seed`; give it as `Averaged` for the means of several draws.
    Raises `DataError` for bad pixels or labels.
    """
    size = float(threat.eps) / 4 if step_size is None else step_size

    def attempt(model: nn.Module, x: Tensor, y: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        def loss(logits: Tensor, index: Tensor | slice) -> Tensor:
            return cross_entropy(logits, y[index])

        return climb(model, x, y, start, threat=threat, loss=loss, steps=steps, step_size=size)

    tries = [attempt] * restarts
    return until_broken(model, x, y, tries, name="pgd", threat=threat, seed=seed, batch_size=batch_size)
