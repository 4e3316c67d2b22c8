"""HARP: learn how much of each layer to keep beside which groups (Zhao & Wressnegger, ICLR 2023, 2412.14714)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from hedgerow.pruners.base import PRUNERS, Progress
from hedgerow.pruners.hydra import Hydra, ScoredWeight, Selection
from hedgerow.pruners.quotas import Quota, QuotaWeight, counted, quota_of, shrink, start_densities
from hedgerow.pruners.resources import Currency, Resource, costs, counted_share
from hedgerow.sparsity import Budget, Masks
from hedgerow.threat import parse_fraction


@PRUNERS.register("harp")
class Harp(Hydra):
    """Learn every layer's density together with the importance scores (HARP, 2412.14714).

    `mode`: learn `both`, the `rates` alone (scores stay the order of |w|), or the `scores` alone (HYDRA).
    `start`: densities at the start, `uniform` (published), or in the shape of `erk` or `lamp`, over the whole
    network `start_density` (0.1), though never below the target. `gamma` (0.01; 0.1 for ImageNet): the penalty
    on what is above the target is gamma * (epochs begun) * L_hw and no longer grows from the first epoch end at
    which the target is met. `min_share` (0.1): no layer's density falls below this share of the target density.
    `train_norm`, `score_decay`: as in `hydra`; quotas never decay.
    `resource`: L_hw is max(R / R_target - 1, 0), R the `parameters` or `flops` left and R_target those left at
    the target density everywhere; published, and the default: FLOPs for channels and filters of a network
    that could be traced, else parameters. The budget counts groups, so where R is not their number, L_hw is the
    larger of this and the same of the counted groups (ours). Layers that share channels share one quota.

    The finished masks keep exactly the budget's total, or fewer if fewer were learned; learned counts above
    it are scaled down by one factor, no layer below its minimum (a choice made here, not the paper's).
    The budget's own distribution decides that total; layer by layer it counts in mode `scores` only.
    """

    granularities: ClassVar[tuple[str, ...]] = ("weight", "filter", "channel", "kernel", "block")
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
        resource: Currency | None = None,
        train_norm: bool = True,
        score_decay: float = 0.0,
    ) -> None:
        super().__init__(granularity=granularity, train_norm=train_norm, score_decay=score_decay)
        _check_names(mode=mode, start=start, resource=resource)
        _check_numbers(start_density, gamma, min_share)
        self.mode = mode
        self.start = start
        self.start_density = parse_fraction(start_density)
        self.gamma = gamma
        self.min_share = min_share
        self.currency = resource
        self.uncounted: list[str] = []

    def attach(self, model: nn.Module, budget: Budget, *, example: Tensor | None = None) -> None:
        """Freeze the model's parameters, give scores to what is to be pruned and every unit of it a quota."""
        self.growth, self.met = 1, False
        self.example = example
        super().attach(model, budget, example=example)
        self.example = None
        if self.mode == "rates":
            for scored in self.scored.values():
                scored.scores.requires_grad_(False)
        self._settle()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What stays whole or does not come out even, and whose FLOPs are unknown."""
        return (*super().remarks, *self.uncounted)

    def make_selection(self) -> Selection:
        """Return what chooses by the scores, after giving every unit its quota and pricing the network."""
        selection = super().make_selection()
        self.asked = sum(selection.keep.values())
        self.quotas: dict[str, Quota] = {}
        if self.mode == "scores":
            return selection
        dense, target = self.dense_values(), float(1 - self.budget.sparsity)
        least = self.min_share * target
        first = start_densities(dense, self.units, max(self.start_density, 1 - self.budget.sparsity), self.start)
        for name, unit in self.units.items():
            start = quota_of(first[name], least, highest=target)
            self.quotas[name] = Quota(unit, dense[unit.weights[0]], quota=start, least=least)
        self.least = {n: min(selection.keep[n], counted(least, unit.count)) for n, unit in self.units.items()}
        self._price(target)
        return selection

    def _price(self, target: float) -> None:
        traced = self.granularity.family in ("channel", "filter") and self.example is not None
        currency: Currency = self.currency or ("flops" if traced else "parameters")
        listed, self.uncounted = costs(self.model, self.dense_values(), self.units, currency, self.example)
        densities = self._densities().detach()
        self.resource = Resource(listed, list(self.quotas), like=densities)
        self.allowed = self.resource.used(torch.full_like(densities, target)).item()
        # Where a group is a weight, its parameters are the count, and R / R_target says all.
        self.counts_groups = self.granularity.family != "weight" or currency == "flops"

    def scored_weight(self, name: str, scores: Tensor) -> ScoredWeight:
        """Return the parametrization of one weight: scores, and quotas unless the mode is `scores`."""
        if self.mode == "scores":
            return super().scored_weight(name, scores)
        return QuotaWeight(name, scores, self.selection, self.quotas)

    def parameters(self) -> list[dict[str, Any]]:
        """Return scores, quotas (never decayed) and normalisation, as far as the mode learns them."""
        groups = super().parameters()
        if self.mode == "scores":
            return groups
        quotas = {"params": [q.quota for q in self.quotas.values()], "weight_decay": 0.0}
        return [*(groups[1:] if self.mode == "rates" else groups), quotas]

    def penalty(self) -> Tensor | None:
        """Return gamma_e * L_hw, gamma_e = (e + 1) * gamma until the target was met (None in mode `scores`)."""
        return self.gamma * self.growth * self._excess() if self.quotas else None

    def _excess(self) -> Tensor:
        """Return L_hw, what is used above the target as a share of it, a scalar."""
        densities = self._densities()
        used = self.resource.used(densities) / self.allowed
        if self.counts_groups:
            counts, totals = [q.count() for q in self.quotas.values()], [q.total for q in self.quotas.values()]
            used = torch.maximum(used, counted_share(densities, counts, totals, self.asked))
        return torch.relu(used - 1.0)

    def _densities(self) -> Tensor:
        return torch.stack([quota.density() for quota in self.quotas.values()])

    def after_step(self, progress: Progress) -> None:
        """At an epoch's end: count, let the penalty grow unless the target was met, settle what is validated."""
        if not progress.epoch_ends or not self.quotas:
            return
        counted_right = self._settle() <= self.asked
        affordable = not self.counts_groups or self._excess().item() == 0
        self.met = self.met or (counted_right and affordable)
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
        """Write into every unit what it would be handed over with now; return the count as learned."""
        learned = {name: quota.count() for name, quota in self.quotas.items()}
        if learned:
            self.selection.keep.update(shrink(learned, self.least, self.asked))
        return sum(learned.values())


def _check_names(*, mode: str, start: str, resource: str | None) -> None:
    for name, value, allowed in (
        ("mode", mode, ("both", "rates", "scores")),
        ("start", start, ("uniform", "erk", "lamp")),
        ("resource", resource or "flops", ("parameters", "flops")),
    ):
        if value not in allowed:
            raise ValueError(f"{name} {value!r} is not known; allowed: {', '.join(allowed)}")


def _check_numbers(start_density: float, gamma: float, min_share: float) -> None:
    if not 0 < start_density <= 1:
        raise ValueError(f"start_density {start_density:g} is not in (0, 1]; it is the share kept at the start")
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma {gamma:g} is not a number from 0 on")
    if not 0 <= min_share < 1:
        raise ValueError(f"min_share {min_share:g} is not in [0, 1); it is a share of the target density")
