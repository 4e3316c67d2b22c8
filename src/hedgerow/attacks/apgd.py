"""Auto-PGD: ascent with momentum that sets its own step size (Croce & Hein, 2003.01690, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from hedgerow.attacks.losses import cross_entropy, dlr, likeliest_other, targeted_dlr
from hedgerow.attacks.survivors import Try, climb, until_broken
from hedgerow.threat import ThreatModel

_MOMENTUM = 0.75
_RISES = 0.75  # share of steps that must raise the loss, or the step size is halved


def checkpoints(steps: int) -> list[int]:
    """Return the steps after which the step size is looked at: shares 0.22, 0.41, 0.57 ... of all, rounded up.

    In hundredths, so that no rounding of floats moves one (section 3.1: p + max(p - p_before - 0.03, 0.06)).
    """
    before, share, found = 0, 22, []
    while share <= 100:
        found.append(-(-share * steps // 100))
        before, share = share, share + max(share - before - 3, 6)
    return list(dict.fromkeys(found))


def must_halve(rises: Tensor, window: int, *, best: Tensor, best_before: Tensor, halved_before: Tensor) -> Tensor:
    """Return `[n]` booleans: whose step size is halved at a checkpoint (conditions 1 and 2 of section 3.1).

    `rises` counts the steps of the last `window` that raised the loss: too few halve it. So does a best loss that
    is the one of the checkpoint before, unless the step size was halved there. A count of exactly three quarters
    is too few, as in the authors' program; the paper's inequality is strict.
    """
    return (rises <= _RISES * window) | (~halved_before & (best <= best_before))


class AutoPace:
    """The step hole of `ascend`: momentum, a step size for each example, and going back to its best point."""

    def __init__(self, x: Tensor, threat: ThreatModel, steps: int) -> None:
        self.threat, self.checks = threat, set(checkpoints(steps))
        self.x, self.index = x, torch.arange(len(x), device=x.device)
        self.step = self.checked = 0
        self.point = self.before = self.best = x
        self.size = torch.full((len(x),), 2 * float(threat.eps), dtype=x.dtype, device=x.device)
        self.losses = self.best_loss = self.best_checked = x.new_full((len(x),), -torch.inf)
        self.rises = torch.zeros(len(x), device=x.device)
        # No step size was set before the first checkpoint, so nothing can have failed to improve under it.
        self.halved = torch.ones(len(x), dtype=torch.bool, device=x.device)
        self.ahead = self.back = torch.zeros_like(self.halved)
        self.gradient = torch.zeros_like(x)

    def see(self, point: Tensor, losses: Tensor) -> None:
        """Hear of the points `[n, ...]` of the examples at work and of their losses `[n]`."""
        self.point = point
        if self.step:
            self.rises = self.rises + (losses > self.losses)
        self.losses = losses
        self.ahead = losses > self.best_loss
        self.best = torch.where(_wide(self.ahead, point), point, self.best)
        self.best_loss = torch.where(self.ahead, losses, self.best_loss)
        self.back = torch.zeros_like(self.ahead)
        if self.step in self.checks:
            self.back = must_halve(
                self.rises,
                self.step - self.checked,
                best=self.best_loss,
                best_before=self.best_checked,
                halved_before=self.halved,
            )
            self.size = torch.where(self.back, self.size / 2, self.size)
            self.halved, self.best_checked, self.checked = self.back, self.best_loss, self.step
            self.rises = torch.zeros_like(self.rises)
        if not self.step:
            self.best_checked = losses
        self.step += 1

    @torch.no_grad()
    def move(self, gradient: Tensor, alive: Tensor) -> Tensor:
        """Drop those that are not `alive`, `[n]`; return the next points of the others, given all gradients."""
        self.gradient = torch.where(_wide(self.ahead, gradient), gradient, self.gradient)
        back = _wide(self.back, gradient)
        first = self.step == 1
        before = self.point if first else self.before
        point, gradient = torch.where(back, self.best, self.point), torch.where(back, self.gradient, gradient)
        self.before = point
        step = _wide(self.size, point) * self.threat.steepest(gradient)
        straight = self.threat.project(point + step, self.x)
        weight = 1.0 if first else _MOMENTUM
        moved = point + weight * (straight - point) + (1 - weight) * (point - before)
        self.point = self.threat.project(moved, self.x)
        self._keep(alive)
        return self.point

    def _keep(self, alive: Tensor) -> None:
        if alive.all():
            return
        rows = ("x", "index", "point", "before", "best", "size", "losses", "best_loss", "best_checked", "rises")
        for name in (*rows, "halved", "ahead", "back", "gradient"):
            setattr(self, name, getattr(self, name)[alive])


def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    loss: Literal["ce", "dlr"] = "ce",
    steps: int = 100,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 500,
) -> Tensor:
    """Return `[N, ...]` adversarial images, each misclassified wherever Auto-PGD found one that is.

    `x` is `[N, ...]` float in [0,1], `y` `[N]` int64. An example leaves the work as soon as it is broken; one that
    is not comes back at its point of highest loss, and an image that is misclassified as it stands unchanged.
    `dlr` is the cross-entropy where there are two classes only. Raises `DataError` for bad pixels or labels.
    """
    function = cross_entropy if loss == "ce" else dlr
    attempt = ascent(threat, steps, lambda _model, _x, y: lambda logits, index: function(logits, y[index]))
    tries = [attempt] * restarts
    return until_broken(model, x, y, tries, name=f"apgd-{loss}", threat=threat, seed=seed, batch_size=batch_size)


def apgd_targeted(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    num_classes: int,
    targets: int = 9,
    steps: int = 100,
    seed: int = 0,
    batch_size: int = 500,
) -> Tensor:
    """Return `[N, ...]` as `apgd` does, one ascent of the targeted ratio for each target class.

    Unbroken examples come back at the point that came closest to an error.
    The targets of an example are the `targets` classes of the largest clean logits, the label aside, the likeliest
    first; there are `num_classes` - 1 at most.
    """
    options = {"seed": seed, "batch_size": batch_size}
    tries = [toward(threat, steps, rank) for rank in range(min(targets, num_classes - 1))]
    return until_broken(model, x, y, tries, name="apgd-t", threat=threat, closest=True, **options)


def targeted_words(num_classes: int, targets: int) -> str:
    """Return what `apgd_targeted` raises, and for few classes how it differs from the published ratio."""
    count = min(targets, num_classes - 1)
    if num_classes == 2:
        return "cross-entropy, the only target class (DLR needs 3 classes)"
    few = " (third logit alone in the ratio: 4 classes needed for the published one)" if num_classes == 3 else ""
    return f"targeted DLR, {count} target class{'es' if count > 1 else ''}{few}"


Aim = Callable[[nn.Module, Tensor, Tensor], Callable[[Tensor, Tensor | slice], Tensor]]


def ascent(threat: ThreatModel, steps: int, aim: Aim) -> Try:
    """Return one Auto-PGD ascent of the loss that `aim(model, x, y)` gives, as a try on the survivors."""

    def attempt(model: nn.Module, x: Tensor, y: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        pace = AutoPace(x, threat, steps)
        loss = aim(model, x, y)
        found, broken = climb(model, x, y, start, threat=threat, loss=loss, steps=steps, step_size=pace)
        whole = ~broken[pace.index]
        found[pace.index[whole]] = pace.best[whole]
        return found, broken

    return attempt


def toward(threat: ThreatModel, steps: int, rank: int) -> Try:
    """Return one Auto-PGD ascent of the targeted ratio, toward the class of that rank on the clean image."""

    def aim(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[Tensor, Tensor | slice], Tensor]:
        with torch.no_grad():
            target = likeliest_other(model(x), y, rank)
        return lambda logits, index: targeted_dlr(logits, y[index], target[index])

    return ascent(threat, steps, aim)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))
