"""Relaxed variable splitting: train a dense w that is pulled towards a sparse u (1901.09731, 2003.00631)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from hedgerow.pruners.base import Progress, Pruner, whole_weights
from hedgerow.sparsity import Budget, EffectiveWeight, Granularity, Masks, attach, topk_mask
from hedgerow.sparsity.proximal import Regulariser, proximal, threshold_for

ThresholdForm = Literal["target", "published"]


def scheduled_share(done: float, ramp: float) -> float:
    """Return 1 - (1 - done / ramp)^3, and 1 from `done` = `ramp` on: the cubic schedule (1710.01878, eq. 1)."""
    return 1.0 if done >= ramp else 1.0 - (1.0 - done / ramp) ** 3


class SplitWeight(EffectiveWeight):
    """The dense w for training, its sparse copy u for evaluation.

    Groups up to a cut are 0 in u, the others shrunk as the penalty has it, by `limit` at most. `cut` is the one
    that couples w to u in this epoch, `final` the one of the whole budget; scalars in the model's state_dict.
    """

    cut: Tensor
    final: Tensor

    def __init__(self, dense: Tensor, granularity: Granularity, regulariser: Regulariser, *, limit: float) -> None:
        super().__init__()
        self.granularity = granularity
        self.regulariser = regulariser
        self.limit = limit
        for name in ("cut", "final"):
            self.register_buffer(name, torch.zeros((), dtype=dense.dtype, device=dense.device))

    def effective(self, dense: Tensor) -> Tensor:
        """Return w itself."""
        return dense

    def sparse(self, dense: Tensor) -> Tensor:
        """Return the u that would be handed over now."""
        return self.u(dense, self.final)

    def u(self, dense: Tensor, cut: Tensor, live: Tensor | None = None) -> Tensor:
        """Return u for a cut, a constant; of the groups in `live` where they are given."""
        return proximal(
            dense.detach(),
            cut,
            cut.clamp(max=self.limit),
            regulariser=self.regulariser,
            granularity=self.granularity,
            live=live,
        )


class Splitting(Pruner):
    """min L_rob(w) + lambda P(u) + (beta / 2) ||w - u||^2: u by its proximal map, w by gradient steps.

    u follows w in every step; cuts are chosen anew when an epoch ends. In the published form the cut is the
    penalty's own threshold; in the target form u keeps as many groups as the budget allows, the largest.
    RVSM and RGSM are this with groups and penalties of their own.
    """

    def __init__(
        self,
        granularity: Granularity,
        regulariser: Regulariser,
        *,
        lambda1: float,
        beta: float,
        threshold: ThresholdForm,
        ramp: float,
    ) -> None:
        self.granularity = granularity
        self.regulariser = regulariser
        self.beta = beta
        self.limit = regulariser.threshold(lambda1 / beta)
        self.form = threshold
        self.ramp = ramp

    def attach(self, model: nn.Module, budget: Budget) -> None:
        """Put u beside every weight that is to be pruned."""
        super().attach(model, budget)
        self.whole = whole_weights(self.weights, self.granularity)
        self.split: dict[str, SplitWeight] = {}
        for name, weight in self.weights.items():
            if name not in self.whole:
                self.split[name] = SplitWeight(
                    weight.dense.detach(), self.granularity, self.regulariser, limit=self.limit
                )
                attach(weight, self.split[name])
        self._choose(0.0)

    def penalty(self) -> Tensor:
        """Return (beta / 2) ||w - u||^2, whose gradient is beta (w - u)."""
        pairs = [(self.weights[name].dense, split) for name, split in self.split.items()]
        gaps = [(dense - split.u(dense, split.cut)).square().sum() for dense, split in pairs]
        return 0.5 * self.beta * torch.stack(gaps).sum()

    def after_step(self, progress: Progress) -> None:
        """Choose the cuts anew when an epoch ends, before it is validated."""
        if progress.epoch_ends:
            self._choose(progress.fraction)

    def finish(self) -> Masks:
        """Return the masks of u, exactly at the budget in the target form; the model holds u."""
        keep = self.groups_to_keep()
        masks = {name: torch.ones_like(self.weights[name].dense, dtype=torch.bool) for name in self.whole}
        for name, split in self.split.items():
            dense = self.weights[name].dense.detach()
            norms = self.granularity.norms(dense)
            cut = self._cut(norms, keep[name])
            count = keep[name] if self.form == "target" else max(1, int((norms > cut).sum()))
            live = topk_mask(norms, count)
            masks[name] = self.granularity.expand(live, dense).contiguous()
            dense.copy_(split.u(dense, cut, live))
        return self.hand_over({name: masks[name] for name in self.weights})

    def _choose(self, done: float) -> None:
        share = scheduled_share(done, self.ramp)
        final = self.groups_to_keep()
        now = final if share == 1.0 else self.groups_to_keep(_scaled(self.budget, share))
        for name, split in self.split.items():
            norms = self.granularity.norms(self.weights[name].dense.detach())
            split.cut.copy_(self._cut(norms, now[name]))
            split.final.copy_(self._cut(norms, final[name]))

    def _cut(self, norms: Tensor, keep: int) -> Tensor:
        if self.form == "target":
            return threshold_for(norms, keep)
        return threshold_for(norms, 1).clamp(max=self.limit)  # no layer loses its last group


def _scaled(budget: Budget, share: float) -> Budget:
    return Budget(float(budget.sparsity) * share, budget.distribution)
