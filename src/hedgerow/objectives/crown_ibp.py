"""Training with linear bounds over interval bounds (CROWN-IBP: Zhang et al., 1906.06316)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hedgerow.bounds import Network, Region, Walk, interval_least, interval_walk, linear_least
from hedgerow.objectives.base import OBJECTIVES, Scalars
from hedgerow.objectives.certified import (
    Bounding,
    Judge,
    Ramp,
    Shape,
    Statistics,
    certified_loss,
    check_weight,
    worst_logits,
)
from hedgerow.objectives.fusion import fused_loss
from hedgerow.objectives.ibp import IBP
from hedgerow.threat import ThreatModel


@OBJECTIVES.register("crown-ibp")
class CrownIBP:
    """Cross-entropy of the worst logits by b * CROWN-IBP + (1 - b) * IBP, b falling while eps grows (1906.06316).

    b goes from 1 to `beta`, the weight of the clean loss from 1 to `kappa`, both as eps goes from 0 to that of the
    threat model; `warmup`, `ramp`, `ramp_shape`, `statistics` and `stability` are those of `ibp`, batch norm too.
    Linear bounds are carried back from the logits alone, with the adaptive lower slope; a step costs about as many
    forwards as there are classes, or three once b is 0. With `beta` and `kappa` 0 the phase ends as HYDRA's does.

    `fusion` bounds the cross-entropy itself, by one function carried back and not one for each class (2002.12920,
    section 3.3): a step costs about six forwards, whatever the number of classes. Then b blends the two losses
    and not the margins, and the accuracy logged as verified is that by intervals.
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        warmup: float = 0.05,
        ramp: float = 0.5,
        ramp_shape: Shape = "smooth",
        beta: float = 0.0,
        kappa: float = 0.0,
        statistics: Statistics = "batch",
        fusion: bool = False,
        stability: float = 0.0,
    ) -> None:
        check_weight("beta", beta)
        check_weight("kappa", kappa)
        check_weight("stability", stability, math.inf)
        self.threat = threat
        self.schedule = Ramp(warmup, ramp, ramp_shape)
        self.beta = beta
        self.kappa = kappa
        self.fusion = fusion
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
        judge = Judge(IBP.margins, self.blended) if self.fusion else Judge(self.margins)
        return certified_loss(self.bounding, judge, model, x, y, threat=self.threat, **weights)

    @property
    def share(self) -> float:
        """What b is now."""
        return 1 - (1 - self.beta) * self.schedule(self.done)

    def blended(self, least: Tensor, walk: Walk, rows: Tensor, y: Tensor) -> Tensor:
        """Return b * the fused bound + (1 - b) * that by intervals of the mean cross-entropy."""
        share = self.share
        fused = fused_loss(walk, rows, least).mean() if share else 0.0
        return share * fused + (1 - share) * worst_logits(least, walk, rows, y)

    def margins(self, network: Network, region: Region, rows: Tensor) -> tuple[Tensor, Walk]:
        """Return the blend of both bounds, `[N, C]`, of the functions `rows`, `[N, C, C]`, and their walk."""
        share = self.share
        found = interval_walk(network, region)
        if share == 1:
            return linear_least(found, rows), found
        bounds = interval_least(found, rows)
        if share:
            bounds = share * linear_least(found, rows) + (1 - share) * bounds
        return bounds, found
