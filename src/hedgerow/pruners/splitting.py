"""Relaxed variable splitting: train a dense w that is pulled towards a sparse u (1901.09731, 2003.00631)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hedgerow.pruners.base import Progress, Pruner
from hedgerow.sparsity import Budget, EffectiveWeight, Granularity, Masks, PrunableWeight, Unit, Units, attach
from hedgerow.sparsity.proximal import Regulariser, scaled, shrinkage

ThresholdForm = Literal["target", "published"]


def scheduled_share(done: float, ramp: float) -> float:
    """Return 1 - (1 - done / ramp)^3, and 1 from `done` = `ramp` on: the cubic schedule (1710.01878, eq. 1)."""
    return 1.0 if done >= ramp else 1.0 - (1.0 - done / ramp) ** 3


@dataclass
class Cuts:
    """Norms that a group of a unit has to exceed, scalars: in this epoch's coupling, and by the whole budget."""

    cut: Tensor
    final: Tensor


@dataclass(frozen=True)
class SparseCopy:
    """u of all weights that are pruned: groups up to a cut are 0, the others shrunk, by `limit` at most.

    As the penalty has it. Where the granularity is a pattern, `keep` decides in its every group, and no cut does.
    """

    weights: dict[str, PrunableWeight]
    units: Units
    regulariser: Regulariser
    limit: float
    cuts: dict[str, Cuts]
    keep: dict[str, int]

    def coupled(self) -> dict[str, Tensor]:
        """Return the u that w is coupled to now, a constant, for every weight that has units."""
        factors = {name: self.factors(unit, self.cuts[name].cut) for name, unit in self.units.items()}
        return {name: self.scaled(name, factors) for name in self.weights if name not in self.units.whole}

    def final(self, name: str) -> Tensor:
        """Return the u of one weight that would be handed over now."""
        units = self.units.on(name)
        return self.scaled(name, {unit.name: self.factors(unit, self.cuts[unit.name].final) for unit in units})

    def factors(self, unit: Unit, cut: Tensor, live: Tensor | None = None) -> Tensor:
        """Return by what u multiplies the groups of a unit; of those in `live` where they are given."""
        norms = self.norms(unit)
        if self.units.granularity.density is not None:
            cut = unit.cut(norms, self.keep[unit.name])
        return shrinkage(norms, cut, regulariser=self.regulariser, limit=self.limit, live=live)

    def norms(self, unit: Unit) -> Tensor:
        """Return the l2 norms of a unit's groups in w, a constant."""
        return unit.norms({name: self.weights[name].dense.detach() for name in unit.weights})

    def scaled(self, name: str, factors: Mapping[str, Tensor]) -> Tensor:
        """Return u of one weight, for the factors of its units' groups."""
        dense = self.weights[name].dense.detach()
        return scaled(dense, self.units.spread(factors, name, dense))


class SplitWeight(EffectiveWeight):
    """The dense w for training, its sparse copy u for evaluation."""

    def __init__(self, name: str, sparse_copy: SparseCopy) -> None:
        super().__init__()
        self.name = name
        self.sparse_copy = sparse_copy

    def effective(self, dense: Tensor) -> Tensor:
        """Return w itself."""
        return dense

    def sparse(self, dense: Tensor) -> Tensor:
        """Return the u that would be handed over now."""
        return self.sparse_copy.final(self.name)


class Splitting(Pruner):
    """min L_rob(w) + lambda P(u) + (beta / 2) ||w - u||^2: u by its proximal map, w by gradient steps.

    u follows w in every step; cuts are chosen anew when an epoch ends. In the published form the cut is the
    penalty's own threshold; in the target form u keeps as many groups as the budget allows, the largest. A pattern
    (n:m) is kept in every step. RVSM and RGSM are this with groups and penalties of their own.
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
        if granularity.density is not None and threshold == "published":
            raise ValueError(
                f"threshold published: it removes what lies under one threshold, and {granularity.name} keeps the "
                "same share everywhere; choose threshold target"
            )
        if granularity.density is not None and ramp > 0:
            raise ValueError(f"ramp {ramp:g}: {granularity.name} has no sparsity below its own; leave ramp at 0")
        self.granularity = granularity
        self.regulariser = regulariser
        self.beta = beta
        self.limit = regulariser.threshold(lambda1 / beta)
        self.form = threshold
        self.ramp = ramp

    def attach(self, model: nn.Module, budget: Budget, *, example: Tensor | None = None) -> None:
        """Put u beside every weight that is to be pruned."""
        super().attach(model, budget, example=example)
        self.split: dict[str, Cuts] = {}
        self.u = SparseCopy(
            self.weights, self.units, self.regulariser, self.limit, self.split, self.groups_to_keep()
        )
        self._choose(0.0)
        for name, weight in self.weights.items():
            if name not in self.whole:
                attach(weight, SplitWeight(name, self.u))

    def penalty(self) -> Tensor:
        """Return (beta / 2) ||w - u||^2, whose gradient is beta (w - u)."""
        gaps = [(self.weights[name].dense - u).square().sum() for name, u in self.u.coupled().items()]
        return 0.5 * self.beta * torch.stack(gaps).sum()

    def after_step(self, progress: Progress) -> None:
        """Choose the cuts anew when an epoch ends, before it is validated."""
        if progress.epoch_ends:
            self._choose(progress.fraction)

    def finish(self) -> Masks:
        """Return the masks of u, exactly at the budget in the target form; the model holds u."""
        keep, live, factors = self.groups_to_keep(), {}, {}
        for name, unit in self.units.items():
            norms = self.u.norms(unit)
            cut = self._cut(unit, norms, keep[name])
            count = keep[name] if self.form == "target" else max(1, int((norms > cut).sum()))
            live[name] = unit.select(norms, count)
            factors[name] = self.u.factors(unit, cut, live[name])
        masks = self.units.masks(live, self.dense_values())
        for name, dense in self.dense_values().items():
            if name not in self.whole:
                dense.copy_(self.u.scaled(name, factors))
        return self.hand_over(masks)

    def state_dict(self) -> dict[str, Any]:
        """Return the cuts."""
        return {name: {"cut": cuts.cut, "final": cuts.final} for name, cuts in self.split.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.split.update({name: Cuts(**cuts) for name, cuts in state.items()})

    def _choose(self, done: float) -> None:
        share = scheduled_share(done, self.ramp)
        final = self.groups_to_keep()
        now = final if share == 1.0 else self.groups_to_keep(_scaled(self.budget, share))
        for name, unit in self.units.items():
            norms = self.u.norms(unit)
            self.split[name] = Cuts(*(self._cut(unit, norms, keep[name]) for keep in (now, final)))

    def _cut(self, unit: Unit, norms: Tensor, keep: int) -> Tensor:
        if self.granularity.density is not None:
            return norms.new_zeros(())  # the pattern decides
        if self.form == "target":
            return unit.cut(norms, keep)
        return unit.cut(norms, 1).clamp(max=self.limit)  # no unit loses its last group


def _scaled(budget: Budget, share: float) -> Budget:
    return Budget(float(budget.sparsity) * share, budget.distribution)
