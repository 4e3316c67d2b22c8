"""Try after try on the examples that still stand: what every attack with restarts or targets shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from hedgerow.attacks.crafting import check_images, crafting
from hedgerow.attacks.losses import margin
from hedgerow.attacks.template import LossHole, Pace, ascend
from hedgerow.seeds import derive
from hedgerow.stochastic import Averaged, averaged
from hedgerow.threat import ThreatModel

# (model, images, labels, starts) -> (images found, which of them are misclassified)
Try = Callable[[nn.Module, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def until_broken(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    tries: Iterable[Try],
    *,
    name: str,
    threat: ThreatModel,
    seed: int,
    batch_size: int,
    closest: bool = False,
) -> Tensor:
    """Return `[N, ...]` what the last try on each example found; those misclassified as they stand are unchanged.

    With `closest` it is what came closest to an error in any try: the largest margin, the image itself included.

    Every try sees the examples that none before it has broken. Starts are uniform in the ball and drawn from
    (seed, name, number of the try) for all images alike, so that neither `batch_size` nor the fate of other images
    changes them. A stochastic model is attacked with draws of its own in each try and judged by others. Raises
    `DataError` for bad pixels or labels.
    """
    check_images(x, y)
    adversarial = x.clone()
    with crafting(model) as inner, torch.no_grad():
        judge = averaged(inner, seed=seed)
        standing = [judge(xs).argmax(1) == ys for xs, ys in _chunks(x, y, batch_size)]
        survivors = torch.cat(standing)
        for number, attempt in enumerate(tries):
            if not survivors.any():
                break
            attacked = judge.at(name, seed, number) if isinstance(judge, Averaged) else judge
            generator = torch.Generator(device=x.device).manual_seed(derive(seed, name, number))
            starts = threat.random_start(x, generator)
            for index in torch.split(survivors.nonzero().flatten(), batch_size):
                found, broken = attempt(attacked, x[index], y[index], starts[index])
                if closest:
                    worse = margin(judge(found), y[index]) <= margin(judge(adversarial[index]), y[index])
                    worse &= ~broken
                    found[worse] = adversarial[index[worse]]
                adversarial[index] = found
                survivors[index[broken]] = False
    return adversarial


def climb(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    *,
    threat: ThreatModel,
    loss: LossHole,
    steps: int,
    step_size: float | Pace,
) -> tuple[Tensor, Tensor]:
    """Return where the ascents of `loss` end, each at the first error it meets, and which have met one."""
    broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def stop(logits: Tensor, index: Tensor | slice) -> Tensor:
        wrong = logits.argmax(1) != y[index]
        broken[index] = wrong
        return wrong

    found = ascend(model, x, threat=threat, start=start, loss=loss, steps=steps, step_size=step_size, stop=stop)
    return found, broken


def _chunks(x: Tensor, y: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(torch.split(x, size), torch.split(y, size), strict=True))
