"""HARP: learn how much of each layer to keep beside which weights (Zhao & Wressnegger, ICLR 2023, 2412.14714)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from hedgerow.pruners.base import PRUNERS, Progress
from hedgerow.pruners.hydra import Hydra, ScoredWeight, Selection, straight_through
from hedgerow.sparsity import Budget, Masks, prunable_weights
from hedgerow.threat import parse_fraction

_CLIP = 0.01  # the start keeps this far from both ends of the sigmoid
_NEARLY_ONE = 1 - 1e-9  # its logit is finite, and it rounds to every weight of a layer


def density_of(quota: Tensor, least: float) -> Tensor:
    """Return k = k_min + (1 - k_min) * sigmoid(r), the density that a quota stands for (2412.14714)."""
    return least + (1.0 - least) * quota.sigmoid()


def quota_of(density: float, least: float, *, highest: float = 0.0) -> float:
    """Return the quota r that starts at `density`: the inverse of `density_of`, clipped.

    u = (k - k_min) / (1 - k_min) is clipped to [0.01, 0.99], r = log(u / (1 - u)). The upper end gives way to
    the target density `highest`: a network that is to keep everything must be able to start there.
    """
    share, top = ((k - least) / (1.0 - least) for k in (density, highest))
    share = min(max(share, _CLIP), max(1 - _CLIP, top), _NEARLY_ONE)
    return math.log(share / (1.0 - share))


def counted(density: float, total: int) -> int:
    """Return the weights that a real-valued density keeps, `total - floor((1 - density) * total)`, at least 1."""
    return max(1, total - math.floor((1.0 - density) * total))


def through_quota(product: Tensor, weight: Tensor, density: Tensor) -> Tensor:
    """Return `product` (w * m) unchanged, with dL/dk = sum_j w_j G_j over the whole layer.

    G is the gradient of the product: straight through the mask, each of whose entries is taken to rise with k.
    """
    return product + (density - density.detach()) * weight


def excess(densities: list[Tensor], sizes: list[int], target: float) -> Tensor:
    """Return L_hw = max(R / k_target - 1, 0) with R = sum n_l k_l / sum n_l (2412.14714, weights)."""
    used = torch.stack([k * n for k, n in zip(densities, sizes, strict=True)]).sum() / sum(sizes)
    return torch.relu(used / target - 1.0)


def shrink(counts: Mapping[str, int], least: Mapping[str, int], target: int) -> dict[str, int]:
    """Scale `counts` down by one factor to add up to exactly `target`, none below its `least`.

    Counts that add up to `target` or less stay. The division is exact; what rounding down leaves over goes to
    the largest remainders. Raises `ValueError` when `least` alone exceeds `target`.
    """
    if sum(counts.values()) <= target:
        return dict(counts)
    if sum(least.values()) > target:
        raise ValueError(f"cannot keep {target} weights: the layers' least add up to {sum(least.values())}")
    free = set(counts)
    while True:
        left = target - sum(least[name] for name in counts if name not in free)
        scale = Fraction(left, sum(counts[name] for name in free))
        low = {name for name in free if scale * counts[name] < least[name]}
        if not low:
            break
        free -= low  # never the last one: the target has room for every layer's least
    wanted = {name: scale * counts[name] if name in free else Fraction(least[name]) for name in counts}
    kept = {name: math.floor(value) for name, value in wanted.items()}
    owed = target - sum(kept.values())
    for name in sorted(counts, key=lambda n: kept[n] - wanted[n])[:owed]:
        kept[name] += 1
    return kept


class QuotaWeight(ScoredWeight):
    """A scored weight whose density is learned."""

    def __init__(self, name: str, scores: Tensor, selection: Selection, *, quota: float, least: float) -> None:
        super().__init__(name, scores, selection)
        selection.keep[name] = scores.numel()
        precise = torch.promote_types(scores.dtype, torch.float32)
        self.quota = nn.Parameter(torch.tensor(quota, dtype=precise, device=scores.device))
        self.least = least

    @property
    def keep(self) -> int:
        """How many weights it would be handed over with now."""
        return self.selection.keep[self.name]

    def density(self) -> Tensor:
        """Return the learned density, a scalar that gradients pass."""
        return density_of(self.quota, self.least)

    def count(self) -> int:
        """Return how many weights the learned density keeps, computed in float64 on every device."""
        density = density_of(self.quota.detach().cpu().double(), self.least)
        return counted(density.item(), self.scores.numel())

    def effective(self, dense: Tensor) -> Tensor:
        """Return w * m(s, k), gradients straight through to the scores and to the quota."""
        mask = self.selection.mask(self.name, {self.name: self.count()})
        return through_quota(straight_through(dense, self.scores, mask), dense, self.density())


@PRUNERS.register("harp")
class Harp(Hydra):
    """Learn every layer's density together with the importance scores (HARP, 2412.14714).

    `mode`: learn `both`, the `rates` alone (scores stay the order of |w|), or the `scores` alone (HYDRA).
    `start`: densities at the start, `uniform` (published), or in the shape of `erk` or `lamp`, over the whole
    network `start_density` (0.1), though never below the target. `gamma` (0.01; 0.1 for ImageNet): the penalty
    on weights above the target is gamma * (epochs begun) * L_hw and no longer grows from the first epoch end at
    which the counted weights meet the target. `min_share` (0.1): no layer's density falls below this share of
    the target density. `train_norm`, `score_decay`: as in `hydra`; quotas never decay.

    The finished masks keep exactly the budget's total, or fewer if fewer were learned; learned counts above
    it are scaled down by one factor, no layer below its minimum (a choice made here, not the paper's).
    The budget's own distribution decides that total; layer by layer it counts in mode `scores` only.
    """

    granularities: ClassVar[tuple[str, ...]] = ("weight",)
    without: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("kernel", "channel", "filter", "block"), "its densities are learned for single weights"
    )
    learns_budget: ClassVar[bool] = True

    def __init__(
        self,
        *,
        granularity: str = "weight",
        mode: Literal["both", "rates", "scores"] = "both",
        start: Literal["uniform", "erk", "lamp"] = "uniform",
        start_density: float = 0.1,
        gamma: float = 0.01,
        min_share: float = 0.1,
        train_norm: bool = True,
        score_decay: float = 0.0,
    ) -> None:
        super().__init__(granularity=granularity, train_norm=train_norm, score_decay=score_decay)
        _check(mode, start, start_density, gamma, min_share)
        self.mode = mode
        self.start = start
        self.start_density = parse_fraction(start_density)
        self.gamma = gamma
        self.min_share = min_share

    def attach(self, model: nn.Module, budget: Budget, *, example: Tensor | None = None) -> None:
        """Freeze the model's parameters and give every prunable weight scores and a quota."""
        self.growth, self.met = 1, False
        self.target = float(1 - budget.sparsity)
        dense = {name: weight.dense.detach() for name, weight in prunable_weights(model).items()}
        keep = budget.keep(dense)
        self.asked = sum(keep.values())
        self.least = {n: min(keep[n], counted(self.min_share * self.target, w.numel())) for n, w in dense.items()}
        self.first = start_densities(dense, max(self.start_density, 1 - budget.sparsity), self.start)
        super().attach(model, budget, example=example)
        self.quotas = {n: s for n, s in self.scored.items() if isinstance(s, QuotaWeight)}
        if self.mode == "rates":
            for quota in self.quotas.values():
                quota.scores.requires_grad_(False)
        self._settle()

    def scored_weight(self, name: str, scores: Tensor) -> ScoredWeight:
        """Return the parametrization of one weight: scores, and a quota unless the mode is `scores`."""
        if self.mode == "scores":
            return super().scored_weight(name, scores)
        least = self.min_share * self.target
        quota = quota_of(self.first[name], least, highest=self.target)
        return QuotaWeight(name, scores, self.selection, quota=quota, least=least)

    def parameters(self) -> list[dict[str, Any]]:
        """Return scores, quotas (never decayed) and normalisation, as far as the mode learns them."""
        groups = super().parameters()
        if self.mode == "scores":
            return groups
        quotas = {"params": [q.quota for q in self.quotas.values()], "weight_decay": 0.0}
        return [*(groups[1:] if self.mode == "rates" else groups), quotas]

    def penalty(self) -> Tensor | None:
        """Return gamma_e * L_hw, gamma_e = (e + 1) * gamma until the target was met (None in mode `scores`)."""
        if not self.quotas:
            return None
        densities = [quota.density() for quota in self.quotas.values()]
        sizes = [quota.scores.numel() for quota in self.quotas.values()]
        return self.gamma * self.growth * excess(densities, sizes, self.target)

    def after_step(self, progress: Progress) -> None:
        """At an epoch's end: count, let the penalty grow unless the target was met, settle what is validated."""
        if not progress.epoch_ends or not self.quotas:
            return
        learned = self._settle()
        self.met = self.met or learned <= self.asked
        if not self.met:
            self.growth = progress.epoch + 2

    def finish(self) -> Masks:
        """Return the masks at the learned densities, scaled down to the budget; the model is plain again."""
        self._settle()
        return super().finish()

    def state_dict(self) -> dict[str, Any]:
        """Return how far the penalty has grown and whether the target was met; quotas are in the model's."""
        return {"growth": self.growth, "met": self.met}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take both back, and count anew; the model's own state is loaded before."""
        self.growth, self.met = state["growth"], state["met"]
        self._settle()

    def _settle(self) -> int:
        """Write into every weight what it would be handed over with now; return the count as learned."""
        learned = {name: quota.count() for name, quota in self.quotas.items()}
        for name, keep in shrink(learned, self.least, self.asked).items():
            self.selection.keep[name] = keep
        return sum(learned.values())


def start_densities(weights: Mapping[str, Tensor], density: Fraction, shape: str) -> dict[str, float]:
    """Return the density every layer starts at: `density` itself, or its spread by ERK or LAMP."""
    if shape == "uniform":
        return dict.fromkeys(weights, float(density))
    keep = Budget(1 - density, shape).keep(weights)
    return {name: keep[name] / weight.numel() for name, weight in weights.items()}


def _check(mode: str, start: str, start_density: float, gamma: float, min_share: float) -> None:
    for name, value, allowed in (
        ("mode", mode, ("both", "rates", "scores")),
        ("start", start, ("uniform", "erk", "lamp")),
    ):
        if value not in allowed:
            raise ValueError(f"{name} {value!r} is not known; allowed: {', '.join(allowed)}")
    if not 0 < start_density <= 1:
        raise ValueError(f"start_density {start_density:g} is not in (0, 1]; it is the share kept at the start")
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma {gamma:g} is not a number from 0 on")
    if not 0 <= min_share < 1:
        raise ValueError(f"min_share {min_share:g} is not in [0, 1); it is a share of the target density")
