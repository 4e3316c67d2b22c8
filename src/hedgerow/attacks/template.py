"""The one loop of all gradient attacks. An attack fills its holes: start, loss, step size, when to stop."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hedgerow.threat import ThreatModel

Index = Tensor | slice
# (logits [n, C], which examples of the batch they are) -> per-example loss [n] / finished [n]
LossHole = Callable[[Tensor, Index], Tensor]
StopHole = Callable[[Tensor, Index], Tensor]

EVERY = slice(None)


@torch.enable_grad()
def ascend(
    model: nn.Module,
    x: Tensor,
    *,
    threat: ThreatModel,
    start: Tensor,
    loss: LossHole,
    steps: int,
    step_size: float,
    stop: StopHole | None = None,
) -> Tensor:
    """Return `[N, ...]` images in the ball around `x`, after `steps` projected ascents of `loss` from `start`.

    With `stop`, an example for which it answers True keeps its current point and leaves the batch: one more
    forward after the last step gives the last points their verdict. Call inside `crafting(model)`; it works
    under `no_grad` too.
    """
    if stop is None:
        for _ in range(steps):
            start = _step(model, x, start, EVERY, threat=threat, loss=loss, step_size=step_size)
        return start
    result = start.clone()
    active = torch.arange(len(x), device=x.device)
    point = start
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):
            point = point.detach().requires_grad_(step < steps)
            logits = model(point)
        finished = stop(logits.detach(), active)
        if step == steps or finished.all():
            break
        # One graph serves the finished examples too; their gradient is simply not used.
        (gradient,) = torch.autograd.grad(loss(logits, active).sum(), point)
        alive = ~finished
        active = active[alive]
        point = _move(point.detach()[alive], gradient[alive], x[active], threat, step_size)
        result[active] = point
    return result


def _step(
    model: nn.Module,
    x: Tensor,
    point: Tensor,
    index: Index,
    *,
    threat: ThreatModel,
    loss: LossHole,
    step_size: float,
) -> Tensor:
    point = point.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(model(point), index).sum(), point)
    return _move(point.detach(), gradient, x, threat, step_size)


def _move(point: Tensor, gradient: Tensor, x: Tensor, threat: ThreatModel, step_size: float) -> Tensor:
    with torch.no_grad():
        return threat.project(point + step_size * threat.steepest(gradient), x)
