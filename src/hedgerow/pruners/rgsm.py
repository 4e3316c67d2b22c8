"""RGSM: sparse channels by relaxed group-wise splitting (Yang et al. 2019; robust training: 2003.00631)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from hedgerow.pruners.base import PRUNERS, check_granularity
from hedgerow.pruners.options import check_choice, check_positive, check_share
from hedgerow.pruners.splitting import Splitting, ThresholdForm
from hedgerow.sparsity.proximal import L0, L1, Regulariser


@PRUNERS.register("rgsm")
class Rgsm(Splitting):
    """Train dense weights that are pulled towards a copy with few channels (RGSM, 2003.00631).

    min L_rob(w) + lambda2 sum_g ||w_g||_2 + lambda1 P(u) + (beta / 2) ||w - u||^2, u = prox(w) in every step;
    u is validated and handed over. Groups are input channels (`granularity`: `channel`), or ours: output filters
    (`filter`), kernels (`kernel`) or blocks (`block`); on a depthwise convolution both of the first are its output
    channels. Channels that layers have in common are one group, once the network was traced (`attach`).
    `penalty` on u: `group-l0` (published; removes ||w_g|| up to sqrt(2 lambda1 / beta)) or `group-lasso`
    (also shrinks the others by lambda1 / beta). `beta` 1, `lambda2` 1e-5 as published.
    `threshold`: `target` meets the budget: u keeps the largest groups, as many as it allows, and `lambda1` only
    shrinks them (group lasso). `published`: one threshold for all layers from `lambda1` (0.05; published 1e-2 to
    1e-1), the budget is not promised, every layer keeps a group.
    `ramp`: share of the phase in which the sparsity of u rises to the budget (ours; 0: the budget throughout).

    The image's channels are never pruned and are no part of the budget, nor are, with `filter`, the classes.
    """

    granularities: ClassVar[tuple[str, ...]] = ("channel", "filter", "kernel", "block")
    without: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("weight", "n:m"), "rvsm is the same splitting on single weights"
    )

    def __init__(
        self,
        *,
        granularity: str = "channel",
        penalty: Literal["group-l0", "group-lasso"] = "group-l0",
        lambda1: float = 0.05,
        lambda2: float = 1e-5,
        beta: float = 1.0,
        threshold: ThresholdForm = "target",
        ramp: float = 0.0,
    ) -> None:
        groups = check_granularity(type(self), granularity)
        check_choice("penalty", penalty, ("group-l0", "group-lasso"))
        check_choice("threshold", threshold, ("target", "published"))
        check_positive(lambda1=lambda1, beta=beta)
        check_share(ramp=ramp)
        if not 0 <= lambda2 < math.inf:
            raise ValueError(f"lambda2 {lambda2:g} is not a number from 0 on")
        self.lambda2 = lambda2
        regularisers: dict[str, Regulariser] = {"group-l0": L0(), "group-lasso": L1()}
        super().__init__(
            groups,
            regularisers[penalty],
            lambda1=lambda1,
            beta=beta,
            threshold=threshold,
            ramp=ramp,
        )

    def penalty(self) -> Tensor:
        """Return lambda2 sum_g ||w_g||_2 + (beta / 2) ||w - u||^2 over the weights that are pruned."""
        dense: dict[str, Tensor] = {name: weight.dense for name, weight in self.weights.items()}
        norms = [unit.norms(dense).sum() for unit in self.units.values()]
        return super().penalty() + self.lambda2 * torch.stack(norms).sum()
