"""PGD: projected gradient ascent on the cross-entropy (Madry et al., 1706.06083, section 2.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.attacks.crafting import check_images, crafting
from hedgerow.attacks.template import ascend
from hedgerow.seeds import derive
from hedgerow.stochastic import Averaged, averaged
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
    check_images(x, y)
    size = float(threat.eps) / 4 if step_size is None else step_size
    adversarial = x.clone()
    with crafting(model) as inner:
        judge = averaged(inner, seed=seed)
        survivors = torch.cat([judge(xs).argmax(1) == ys for xs, ys in _chunks(x, y, batch_size)])
        for restart in range(restarts):
            attacked = judge.at("pgd", seed, restart) if isinstance(judge, Averaged) else judge
            generator = torch.Generator(device=x.device).manual_seed(derive(seed, "pgd", restart))
            starts = threat.random_start(x, generator)
            for index in torch.split(survivors.nonzero().flatten(), batch_size):
                found, broken = _one_restart(
                    attacked, x[index], y[index], starts[index], threat=threat, steps=steps, step_size=size
                )
                adversarial[index] = found
                survivors[index[broken]] = False
    return adversarial


def _one_restart(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    *,
    threat: ThreatModel,
    steps: int,
    step_size: float,
) -> tuple[Tensor, Tensor]:
    broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def stop(logits: Tensor, index: Tensor | slice) -> Tensor:
        wrong = logits.argmax(1) != y[index]
        broken[index] = wrong
        return wrong

    found = ascend(
        model,
        x,
        threat=threat,
        start=start,
        loss=lambda logits, index: F.cross_entropy(logits, y[index], reduction="none"),
        steps=steps,
        step_size=step_size,
        stop=stop,
    )
    return found, broken


def _chunks(x: Tensor, y: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(torch.split(x, size), torch.split(y, size), strict=True))
