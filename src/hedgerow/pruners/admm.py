"""Robust ADMM: prune by alternating directions under the robust objective (Ye et al., 1903.12561)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hedgerow.pruners.base import PRUNERS, Progress, Pruner, check_granularity, whole_weights
from hedgerow.pruners.options import check_positive
from hedgerow.sparsity import GRANULARITIES, Budget, EffectiveWeight, Granularity, Masks, attach, topk_mask


def nearest_mask(weight: Tensor, keep: int, granularity: Granularity) -> Tensor:
    """Return the mask of the `keep` groups of largest l2 norm: the support of the nearest such tensor."""
    return granularity.expand(topk_mask(granularity.norms(weight), keep), weight).contiguous()


def project(weight: Tensor, keep: int, granularity: Granularity) -> Tensor:
    """Return Pi_S(w), the nearest tensor (in l2) with at most `keep` groups that are not 0."""
    return weight.masked_fill(~nearest_mask(weight, keep, granularity), 0.0)


def augmented(weight: Tensor, z: Tensor, u: Tensor, rho: float) -> Tensor:
    """Return (rho / 2) ||W - Z + U||^2; Z and U are constants, so its gradient is rho (W - Z + U) (1903.12561)."""
    return 0.5 * rho * (weight - z.detach() + u.detach()).square().sum()


class DualWeight(EffectiveWeight):
    """The dense W for training, its projection for evaluation; holds Z, U (scaled dual) and the mask of Pi(W)."""

    z: Tensor
    u: Tensor
    mask: Tensor

    def __init__(self, dense: Tensor, keep: int, granularity: Granularity) -> None:
        super().__init__()
        self.keep = keep
        self.granularity = granularity
        self.register_buffer("z", project(dense, keep, granularity))
        self.register_buffer("u", torch.zeros_like(dense))
        self.register_buffer("mask", nearest_mask(dense, keep, granularity))

    def effective(self, dense: Tensor) -> Tensor:
        """Return W itself."""
        return dense

    def sparse(self, dense: Tensor) -> Tensor:
        """Return W under the mask that its projection had when `look` was last called."""
        return dense.detach().masked_fill(~self.mask, 0.0)

    def alternate(self, dense: Tensor) -> None:
        """Set Z = Pi_S(W + U), then U = U + W - Z, in place."""
        self.z.copy_(project(dense + self.u, self.keep, self.granularity))
        self.u.add_(dense - self.z)

    def look(self, dense: Tensor) -> None:
        """Note which groups the projection of W keeps now."""
        self.mask.copy_(nearest_mask(dense, self.keep, self.granularity))


@PRUNERS.register("admm")
class Admm(Pruner):
    """Train dense weights under a quadratic pull to the nearest sparse ones, with a dual (R-ADMM, 1903.12561).

    min L_rob(W) subject to W in S: the loss gains (rho / 2) ||W - Z + U||^2, and every `period` epochs
    Z = Pi_S(W + U), U = U + W - Z and rho grows by `rho_growth`. `rho` 1e-3, growth 1.3 as published.
    `period`: by default a tenth of the phase (the authors': 20 of 200 epochs). `finish` projects W onto the
    budget; fine-tune afterwards. Pi keeps the groups of largest l2 norm: `granularity` weight, filter, channel
    (column) or kernel. U stays as it is when rho grows. The learning rate is the phase's: the authors' own decay
    inside each period is not done.

    With `channel` the model's first prunable weight stays whole (its channels are the image's), with `filter`
    the last (its rows are the classes); neither is then part of the budget.
    """

    granularities: ClassVar[tuple[str, ...]] = ("weight", "filter", "channel", "kernel")

    def __init__(
        self,
        *,
        granularity: str = "weight",
        rho: float = 1e-3,
        rho_growth: float = 1.3,
        period: int | None = None,
    ) -> None:
        check_granularity(type(self), granularity)
        check_positive(rho=rho)
        if not 1 <= rho_growth < float("inf"):
            raise ValueError(f"rho_growth {rho_growth:g} is not a number from 1 on")
        if period is not None and period < 1:
            raise ValueError(f"period {period} is not a number of epochs from 1 on")
        self.granularity = GRANULARITIES[granularity]
        self.rho = rho
        self.rho_growth = rho_growth
        self.period = period

    def attach(self, model: nn.Module, budget: Budget) -> None:
        """Settle how many groups each layer keeps, start at Z = Pi_S(W) and U = 0."""
        super().attach(model, budget)
        self.whole = whole_weights(self.weights, self.granularity)
        keep = self.groups_to_keep()
        self.dual: dict[str, DualWeight] = {}
        for name, weight in self.weights.items():
            if name not in self.whole:
                self.dual[name] = DualWeight(weight.dense.detach(), keep[name], self.granularity)
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
            for name, dual in self.dual.items():
                dual.alternate(self.weights[name].dense.detach())
            self.rho *= self.rho_growth
        for name, dual in self.dual.items():
            dual.look(self.weights[name].dense.detach())

    def _finite(self) -> bool:
        # Of weights that are NaN no mask can be chosen; that training broke is the loop's to say.
        return all(bool(self.weights[name].dense.isfinite().all()) for name in self.dual)

    def finish(self) -> Masks:
        """Return the masks of Pi_S(W); the model holds Pi_S(W)."""
        masks = {}
        for name, weight in self.weights.items():
            if name in self.dual:
                dual = self.dual[name]
                masks[name] = nearest_mask(weight.dense.detach(), dual.keep, self.granularity)
            else:
                masks[name] = torch.ones_like(weight.dense, dtype=torch.bool)
        return self.hand_over(masks)

    def state_dict(self) -> dict[str, Any]:
        """Return rho and the counts; Z, U and the masks are in the model's state_dict."""
        return {"rho": self.rho, "keep": {name: dual.keep for name, dual in self.dual.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take both back."""
        self.rho = state["rho"]
        for name, dual in self.dual.items():
            dual.keep = state["keep"][name]
