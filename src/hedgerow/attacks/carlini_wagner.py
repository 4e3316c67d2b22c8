"""C&W l2: the smallest change that is misclassified, by descent (Carlini & Wagner, 1608.04644, section VI-A)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hedgerow.attacks.crafting import check_images, crafting
from hedgerow.attacks.losses import margin
from hedgerow.attacks.template import EVERY, Index, LossHole, gradient_at
from hedgerow.errors import DataError
from hedgerow.stochastic import averaged
from hedgerow.threat import ThreatModel

_L2 = ThreatModel("l2", 1)
_EDGE = 1e-6  # keeps the arctanh of black and of white finite
_GROWTH = 10.0


def carlini_wagner(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 100,
    searches: int = 9,
    constant: float = 1e-3,
    lr: float = 0.01,
    seed: int = 0,
    batch_size: int = 500,
) -> Tensor:
    """Return `[N, ...]` the closest misclassified images found in l2; `x` itself where none was.

    For each example |x' - x|^2 + c * max(z_y - max_{i != y} z_i, 0) is descended with Adam for `steps` steps, over
    the arctanh of the pixels, so that they stay in [0,1]; `searches` times, c from `constant` on: ten times as
    large until it succeeds, then halved towards the smallest that does (section V-B). The paper has 10,000 steps
    and 20 searches. `x` is float in [0,1], `y` `[N]` int64; an image that is misclassified as it stands comes back
    unchanged. Raises `DataError` for bad pixels or labels.
    """
    check_images(x, y)
    found = x.clone()
    with crafting(model) as inner:
        judge = averaged(inner, seed=seed)
        for index in torch.split(torch.arange(len(x), device=x.device), batch_size):
            found[index] = _closest(
                judge, x[index], y[index], steps=steps, searches=searches, constant=constant, lr=lr
            )
    return found


def within(threat: ThreatModel, adversarial: Tensor, x: Tensor) -> Tensor:
    """Return the adversarial images that lie in the ball, and `x` in place of the others.

    Raises `DataError` for a threat of another norm: the smallest change in l2 says nothing of linf.
    """
    if threat.norm != "l2":
        raise DataError(f"C&W measures l2 distances, and the threat is {threat}; set threat.norm to l2")
    inside = threat.distance(adversarial, x) <= float(threat.eps)
    return torch.where(inside.view(-1, *[1] * (x.dim() - 1)), adversarial, x)


def next_constants(c: Tensor, low: Tensor, high: Tensor, success: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return c and its bracket `[n]` after a search: ten times c where none has succeeded yet, else the middle."""
    high = torch.where(success, torch.minimum(high, c), high)
    low = torch.where(success, low, torch.maximum(low, c))
    return torch.where(high.isinf(), c * _GROWTH, (low + high) / 2), low, high


def _closest(
    model: nn.Module, x: Tensor, y: Tensor, *, steps: int, searches: int, constant: float, lr: float
) -> Tensor:
    with torch.no_grad():
        right = model(x).argmax(1) == y
    closest = x.clone()
    shortest = torch.where(right, torch.inf, -torch.inf).to(x.dtype)
    c = x.new_full((len(x),), constant)
    low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
    for _ in range(searches):
        found, distance = _descend(model, x, y, c, steps, lr)
        closer = distance < shortest
        closest[closer], shortest[closer] = found[closer], distance[closer]
        c, low, high = next_constants(c, low, high, distance.isfinite())
    return closest


@torch.no_grad()
def _descend(model: nn.Module, x: Tensor, y: Tensor, c: Tensor, steps: int, lr: float) -> tuple[Tensor, Tensor]:
    """Return the closest misclassified point met and its distance, infinite where none was."""

    def short_of_wrong(logits: Tensor, index: Index) -> Tensor:
        return c[index] * (-margin(logits, y[index])).clamp_min(0)

    w = torch.atanh((2 * x - 1) * (1 - _EDGE))
    adam = torch.optim.Adam([w], lr=lr)
    found, shortest = x.clone(), torch.full_like(c, torch.inf)
    for step in range(steps + 1):
        point = (torch.tanh(w) + 1) / 2
        distance = _L2.distance(point, x)
        closer = (model(point).argmax(1) != y) & (distance < shortest)
        found[closer], shortest[closer] = point[closer], distance[closer]
        if step < steps:
            slope = 2 * point * (1 - point)
            w.grad = slope * (2 * (point - x) + _gradient(model, point, short_of_wrong, step))
            adam.step()
    return found, shortest


@torch.enable_grad()
def _gradient(model: nn.Module, point: Tensor, loss: LossHole, step: int) -> Tensor:
    return gradient_at(model, point, EVERY, loss, step)
