"""Training with interval bounds (Gowal et al., 1810.12715)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hedgerow.bounds import Network, Region, Walk, interval_least, interval_walk
from hedgerow.objectives.base import OBJECTIVES, Scalars
from hedgerow.objectives.certified import Bounding, Judge, Ramp, Shape, Statistics, certified_loss, check_weight
from hedgerow.threat import ThreatModel


@OBJECTIVES.register("ibp")
class IBP:
    """Cross-entropy of the worst logits that interval bounds allow, beside the clean one (IBP, 1810.12715).

    eps grows from 0 to that of the threat model: nothing for the share `warmup` of the phase, then a `ramp` of
    `ramp_shape` (`smooth` or `linear`); 0 for both is the full eps from the first step, as a prune or fine-tune
    phase wants it. Meanwhile the weight of the clean loss falls from 1 to `kappa` (published: 0.5). Whoever does
    not call `progress` trains with the end of the schedule. Bounds cost a little more than two forwards.

    Batch norm: the clean batch goes through one training forward, which updates the running statistics; bounds use
    the statistics of that batch, with their gradients (`statistics: batch`, as published), or the running ones.

    `stability` times the stability loss of all ReLUs (NRSLoss, 2206.07311; `bounds.stability_loss`) is
    added from the first step with an attacker on. Published: 0.01; the authors' code has 0.001 with CROWN-IBP.
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        warmup: float = 0.05,
        ramp: float = 0.5,
        ramp_shape: Shape = "smooth",
        kappa: float = 0.5,
        statistics: Statistics = "batch",
        stability: float = 0.0,
    ) -> None:
        check_weight("kappa", kappa)
        check_weight("stability", stability, math.inf)
        self.threat = threat
        self.schedule = Ramp(warmup, ramp, ramp_shape)
        self.kappa = kappa
        self.stability = stability
        self.bounding = Bounding(statistics)
        self.done = 1.0

    def progress(self, done: float) -> None:
        """Take the place in the schedule that the share `done` of the phase's steps stands for."""
        self.done = done

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Scalars]:
        """Return the mean loss, its terms (`natural`, `robust`), clean and verified accuracy, and the eps."""
        height = self.schedule(self.done)
        weights = {"height": height, "kappa": self.kappa, "stability": self.stability}
        return certified_loss(self.bounding, Judge(self.margins), model, x, y, threat=self.threat, **weights)

    @staticmethod
    def margins(network: Network, region: Region, rows: Tensor) -> tuple[Tensor, Walk]:
        """Return interval bounds, `[N, C]`, of the functions `rows`, `[N, C, C]`, of the logits, their walk."""
        found = interval_walk(network, region)
        return interval_least(found, rows), found
