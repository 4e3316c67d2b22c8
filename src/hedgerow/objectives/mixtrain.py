"""MixTrain: now and then the worst case of a few images, beside plain training (Wang et al., 1811.02625)."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.bounds import Network, Region, Walk, crown_walk, interval_walk, linear_least
from hedgerow.objectives.base import OBJECTIVES, Scalars, accuracy
from hedgerow.objectives.certified import Bounding, Judge, Ramp, Shape, Statistics, check_weight, worst_case
from hedgerow.threat import ThreatModel

Bound = Literal["symbolic", "crown", "crown-ibp"]


@OBJECTIVES.register("mixtrain")
class MixTrain:
    """CE(f(x), y), and with probability `chance` + w * the worst case of `images` images (MixTrain, 1811.02625).

    The worst case is the cross-entropy of the worst logits that the `bound` allows: `symbolic` carries symbolic
    intervals through every layer, a ReLU between two parallel lines, as the paper does (here carried backwards, as
    in 1804.09699); `crown` takes the adaptive lower line, `crown-ibp` intervals for all layers but the last. eps
    is ramped as for `ibp`. The weight w is `weight` until the ramp is over and grows by `growth` after every
    further share `every` of the phase, up to `most`: the public code's 0.1, times 2.5 every 5 epochs, at most 50,
    here for 100 epochs. Batch norm as for `ibp`: bounds use the statistics of the whole clean batch.
    """

    def __init__(  # noqa: PLR0913
        self,
        threat: ThreatModel,
        *,
        images: int = 5,
        chance: float = 0.8,
        bound: Bound = "symbolic",
        weight: float = 0.1,
        growth: float = 2.5,
        every: float = 0.05,
        most: float = 50.0,
        warmup: float = 0.0,
        ramp: float = 0.15,
        ramp_shape: Shape = "linear",
        statistics: Statistics = "batch",
    ) -> None:
        if isinstance(images, bool) or not isinstance(images, int) or images < 1:
            raise ValueError(f"images is {images!r}; it counts the images whose worst case is bounded, 1 or more")
        if bound not in get_args(Bound):
            raise ValueError(f"bound {bound!r} is not known; allowed: {', '.join(get_args(Bound))}")
        check_weight("chance", chance)
        check_weight("weight", weight, math.inf)
        check_weight("most", most, math.inf)
        if not 1 <= growth < math.inf:
            raise ValueError(f"growth is {growth}; it multiplies the weight and must be 1 or more")
        if not 0 < every <= 1:
            raise ValueError(f"every is {every}; it is a share of the phase, above 0 and at most 1")
        self.threat, self.images, self.chance, self.bound = threat, images, chance, bound
        self.first, self.growth, self.every, self.most = weight, growth, every, most
        self.schedule = Ramp(warmup, ramp, ramp_shape)
        self.bounding = Bounding(statistics)
        self.done = 1.0

    def progress(self, done: float) -> None:
        """Take the place in the schedule that the share `done` of the phase's steps stands for."""
        self.done = done

    @property
    def weight(self) -> float:
        """The weight of the worst case now."""
        past = max(0.0, self.done - self.schedule.warmup - self.schedule.ramp)
        times = math.floor(past / self.every + 1e-9)  # a whole number of shares is not always one in binary
        return min(self.first * self.growth**times, max(self.most, self.first))

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Scalars]:
        """Return the loss, what the worst case added to it (`robust`), `natural`, clean accuracy, and the eps."""
        attacker = self.threat.with_eps(self.schedule(self.done) * float(self.threat.eps))
        chosen = self._draw(len(x), x.device, generator)
        if chosen is None or not attacker.eps:
            logits = model(x)
        else:
            logits, network = self.bounding.forward(model, x)
        natural = F.cross_entropy(logits, y)
        robust = torch.zeros_like(natural)
        if chosen is not None and attacker.eps:
            robust = self.weight * worst_case(network, Judge(self.margins), x[chosen], y[chosen], attacker).loss
        scalars = {
            "train_accuracy": accuracy(logits, y),
            "natural": natural.detach(),
            "robust": robust.detach(),
            "eps": torch.full_like(natural.detach(), float(attacker.eps)),
        }
        return natural + robust, scalars

    def _draw(self, count: int, device: torch.device, generator: torch.Generator | None) -> Tensor | None:
        """Return which images are bounded in this step; None for none of them."""
        if torch.rand((), generator=generator, device=device) >= self.chance:
            return None
        return torch.randperm(count, generator=generator, device=device)[: self.images]

    def margins(self, network: Network, region: Region, rows: Tensor) -> tuple[Tensor, Walk]:
        """Return bounds, `[N, C]`, of the functions `rows`, `[N, C, C]`, of the logits, and their walk."""
        if self.bound == "crown-ibp":
            found = interval_walk(network, region)
            return linear_least(found, rows), found
        slope: Literal["parallel", "adaptive"] = "parallel" if self.bound == "symbolic" else "adaptive"
        found = crown_walk(network, region, slope=slope)
        return linear_least(found, rows, slope=slope), found
