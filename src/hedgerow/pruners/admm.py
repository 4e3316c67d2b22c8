"""Robust ADMM: prune by alternating directions under the robust objective (Ye et al., 1903.12561)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hedgerow.pruners.base import PRUNERS, Progress, Pruner, check_granularity
from hedgerow.pruners.options import check_positive
from hedgerow.sparsity import Budget, EffectiveWeight, Masks, Units, attach


def nearest_masks(weights: Mapping[str, Tensor], units: Units, keep: Mapping[str, int]) -> Masks:
    """Return the masks of the `keep` groups of largest l2 norm of every unit: the support of `project`."""
    return units.masks(units.select(units.norms(weights), keep), weights)


def project(weights: Mapping[str, Tensor], units: Units, keep: Mapping[str, int]) -> dict[str, Tensor]:
    """Return Pi_S(w), the nearest tensors (in l2) with at most `keep` groups of every unit that are not 0."""
    masks = nearest_masks(weights, units, keep)
    return {name: weight.masked_fill(~masks[name], 0.0) for name, weight in weights.items()}


def augmented(weight: Tensor, z: Tensor, u: Tensor, rho: float) -> Tensor:
    """Return (rho / 2) ||W - Z + U||^2; Z and U are constants, so its gradient is rho (W - Z + U) (1903.12561)."""
    return 0.5 * rho * (weight - z.detach() + u.detach()).square().sum()


class DualWeight(EffectiveWeight):
    """The dense W for training, its projection for evaluation; holds Z, U (scaled dual) and the mask of Pi(W)."""

    z: Tensor
    u: Tensor
    mask: Tensor

    def __init__(self, z: Tensor, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("z", z)
        self.register_buffer("u", torch.zeros_like(z))
        self.register_buffer("mask", mask)

    def effective(self, dense: Tensor) -> Tensor:
        """Return W itself."""
        return dense

    def sparse(self, dense: Tensor) -> Tensor:
        """Return W under the mask that its projection had when it was last looked at."""
        return dense.detach().masked_fill(~self.mask, 0.0)


@PRUNERS.register("admm")
class Admm(Pruner):
    """Train dense weights under a quadratic pull to the nearest sparse ones, with a dual (R-ADMM, 1903.12561).

    min L_rob(W) subject to W in S: the loss gains (rho / 2) ||W - Z + U||^2, and every `period` epochs
    Z = Pi_S(W + U), U = U + W - Z and rho grows by `rho_growth`. `rho` 1e-3, growth 1.3 as published.
    `period`: by default a tenth of the phase (the authors': 20 of 200 epochs). `finish` projects W onto the
    budget; fine-tune afterwards. Pi keeps the groups of largest l2 norm: `granularity` weight, filter, channel
    (column), kernel, block or n:m. U stays as it is when rho grows. The learning rate is the phase's: the authors'
    own decay inside each period is not done.

    Image channels (`channel`) and the rows of classes (`filter`) stay whole and are no part of the budget.
    """

    granularities: ClassVar[tuple[str, ...]] = ("weight", "filter", "channel", "kernel", "block", "n:m")

    def __init__(
        self,
        *,
        granularity: str = "weight",
        rho: float = 1e-3,
        rho_growth: float = 1.3,
        period: int | None = None,
    ) -> None:
        self.granularity = check_granularity(type(self), granularity)
        check_positive(rho=rho)
        if not 1 <= rho_growth < float("inf"):
            raise ValueError(f"rho_growth {rho_growth:g} is not a number from 1 on")
        if period is not None and period < 1:
            raise ValueError(f"period {period} is not a number of epochs from 1 on")
        self.rho = rho
        self.rho_growth = rho_growth
        self.period = period

    def attach(self, model: nn.Module, budget: Budget, *, example: Tensor | None = None) -> None:
        """Settle how many groups each unit keeps, start at Z = Pi_S(W) and U = 0."""
        super().attach(model, budget, example=example)
        self.keep = self.groups_to_keep()
        values = self.dense_values()
        start, masks = project(values, self.units, self.keep), nearest_masks(values, self.units, self.keep)
        self.dual: dict[str, DualWeight] = {}
        for name, weight in self.weights.items():
            if name not in self.whole:
                self.dual[name] = DualWeight(start[name], masks[name])
                attach(weight, self.dual[name])

    def penalty(self) -> Tensor:
        """Return (rho / 2) sum ||W - Z + U||^2."""
        terms = [augmented(self.weights[n].dense, dual.z, dual.u, self.rho) for n, dual in self.dual.items()]
        return torch.stack(terms).sum()

    def after_step(self, progress: Progress) -> None:
        """At the end of a period alternate and let rho grow; at the end of every epoch look at Pi_S(W)."""
        if not progress.epoch_ends or not self._finite():
            return
        period = self.period or max(1, progress.epochs // 10)
        if (progress.epoch + 1) % period == 0:
            self._alternate()
            self.rho *= self.rho_growth
        masks = nearest_masks(self.dense_values(), self.units, self.keep)
        for name, dual in self.dual.items():
            dual.mask.copy_(masks[name])

    def _alternate(self) -> None:
        """Set Z = Pi_S(W + U), then U = U + W - Z, in place."""
        values = self.dense_values()
        sums = {name: values[name] + self.dual[name].u if name in self.dual else values[name] for name in values}
        nearest = project(sums, self.units, self.keep)
        for name, dual in self.dual.items():
            dual.z.copy_(nearest[name])
            dual.u.add_(values[name] - dual.z)

    def _finite(self) -> bool:
        # Of weights that are NaN no mask can be chosen; that training broke is the loop's to say.
        return all(bool(self.weights[name].dense.isfinite().all()) for name in self.dual)

    def finish(self) -> Masks:
        """Return the masks of Pi_S(W); the model holds Pi_S(W)."""
        return self.hand_over(nearest_masks(self.dense_values(), self.units, self.keep))

    def state_dict(self) -> dict[str, Any]:
        """Return rho and the counts; Z, U and the masks are in the model's state_dict."""
        return {"rho": self.rho, "keep": self.keep}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take both back."""
        self.rho, self.keep = state["rho"], dict(state["keep"])
