"""The one loop of all gradient attacks. An attack fills its holes: start, loss, step, when to stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from hedgerow.stochastic import Averaged
from hedgerow.threat import ThreatModel

Index = Tensor | slice
# (logits [n, C], which examples of the batch they are) -> per-example loss [n] / finished [n]
LossHole = Callable[[Tensor, Index], Tensor]
StopHole = Callable[[Tensor, Index], Tensor]

EVERY = slice(None)


class Pace(Protocol):
    """The step hole of an attack that decides for itself how far to go; one object serves one ascent.

    It is told of every point with its losses; then which examples go on, and their gradients; it answers with the
    next points, in the ball.
    """

    def see(self, point: Tensor, losses: Tensor) -> None:
        """Hear of the points `[n, ...]` of the examples at work and of their losses `[n]`."""

    def move(self, gradient: Tensor, alive: Tensor) -> Tensor:
        """Drop those that are not `alive`, `[n]`; return the next points of the others, given all gradients."""
        ...


@torch.enable_grad()
def ascend(
    model: nn.Module,
    x: Tensor,
    *,
    threat: ThreatModel,
    start: Tensor,
    loss: LossHole,
    steps: int,
    step_size: float | Pace,
    stop: StopHole | None = None,
) -> Tensor:
    """Return `[N, ...]` images in the ball around `x`, after `steps` projected ascents of `loss` from `start`.

    With `stop`, an example for which it answers True keeps its current point and leaves the batch: one more
    forward after the last step gives the last points their verdict. Call inside `crafting(model)`; it works
    under `no_grad` too. An `Averaged` model has its gradients averaged over its `eot` draws, others for each step,
    and `stop` sees the mean logits that judge it; any other model answers once for both. A `Pace` in place of the
    step size decides the steps itself, from the losses of the logits that `stop` sees.
    """
    if stop is None and isinstance(step_size, int | float):
        for step in range(steps):
            gradient = gradient_at(model, start, EVERY, loss, step)
            start = _move(start.detach(), gradient, x, threat, step_size)
        return start
    result = start.clone()
    active = torch.arange(len(x), device=x.device)
    point = start
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):
            point = point.detach().requires_grad_(step < steps)
            logits = model(point.detach() if isinstance(model, Averaged) else point)
        finished = torch.zeros_like(active, dtype=torch.bool) if stop is None else stop(logits.detach(), active)
        if not isinstance(step_size, int | float):
            step_size.see(point.detach(), loss(logits.detach(), active))
        if step == steps or finished.all():
            break
        # One graph serves the finished examples too; their gradient is simply not used.
        gradient = gradient_at(model, point, active, loss, step, logits)
        alive = ~finished
        active = active[alive]
        if isinstance(step_size, int | float):
            point = _move(point.detach()[alive], gradient[alive], x[active], threat, step_size)
        else:
            point = step_size.move(gradient, alive)
        result[active] = point
    return result


def gradient_at(
    model: nn.Module, point: Tensor, index: Index, loss: LossHole, step: int, logits: Tensor | None = None
) -> Tensor:
    """Return the gradient of the summed losses at `point`; `logits` are its answer there, if it gave one."""
    if isinstance(model, Averaged):
        return model.gradient(lambda drawn: loss(drawn, index).sum(), point, step)
    if logits is None:
        point = point.detach().requires_grad_()
        logits = model(point)
    return torch.autograd.grad(loss(logits, index).sum(), point)[0]


def _move(point: Tensor, gradient: Tensor, x: Tensor, threat: ThreatModel, step_size: float) -> Tensor:
    with torch.no_grad():
        return threat.project(point + step_size * threat.steepest(gradient), x)
