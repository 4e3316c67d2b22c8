"""Budget: how many groups of each unit may live, given one target for the whole network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from hedgerow.errors import ModelError
from hedgerow.registry import Registry
from hedgerow.sparsity.granularity import WEIGHT, Granularity
from hedgerow.sparsity.unit import Unit, Values
from hedgerow.sparsity.units import Units, separate_units
from hedgerow.threat import parse_fraction

Distribution = Callable[[Values, Units, Fraction], dict[str, int]]
"""`(weights, units, sparsity)`: the number of groups to keep of every unit, by its name."""

DISTRIBUTIONS: Registry[Distribution] = Registry("budget distribution")
_FLOOR = 0.01  # share of its groups that a unit keeps under one global threshold
_SLACK = 1e-6  # weights; what float rounding may take from mean sizes that add up to a whole number


def kept_count(total: int, sparsity: Fraction) -> int:
    """Return `total - floor(sparsity * total)`, exactly, and at least 1.

    Exact rational arithmetic: 0.9 of 10 removes 9, whatever the float rounding of 0.1 would say.
    """
    return max(1, total - math.floor(sparsity * total))


@DISTRIBUTIONS.register("uniform")
def uniform(weights: Values, units: Units, sparsity: Fraction) -> dict[str, int]:
    """The same share of every unit, which mostly is a layer (HYDRA, 2002.10509; LWM, 1906.06110)."""
    return {name: kept_count(unit.count, sparsity) for name, unit in units.items()}


@DISTRIBUTIONS.register("erk")
def erk(weights: Values, units: Units, sparsity: Fraction) -> dict[str, int]:
    """Density in proportion to (sum of dimensions) / (product of dimensions), none above 1 (1911.11134).

    Units that the proportion would fill beyond their size stay dense and the rest is shared again. The kept
    weights add up to the whole network's `kept_count` to within one group. A unit of several weights has the
    mean of their proportions, each counted by its weights in the unit.
    """
    groups = {name: unit.count for name, unit in units.items()}
    sizes = _sizes(weights, units)
    total = {name: sizes[name] * groups[name] for name in units}
    raw = {name: _proportion(unit, weights) for name, unit in units.items()}
    target = kept_count(round(sum(total.values())), sparsity)
    dense: set[str] = set()
    while True:
        left = target - sum(total[name] for name in dense)
        share = {name: raw[name] * total[name] for name in units if name not in dense}
        scale = left / sum(share.values()) if share else 0.0
        full = {name for name in share if scale * raw[name] > 1}
        if not full:
            break
        dense |= full
    wanted = {name: groups[name] * (1.0 if name in dense else scale * raw[name]) for name in units}
    return _round_to(wanted, groups, sizes, target)


@DISTRIBUTIONS.register("global")
def one_threshold(weights: Values, units: Units, sparsity: Fraction) -> dict[str, int]:
    """One threshold on the mean |w| of a group over all units; every unit keeps at least 1 % of its groups."""
    scores = units.scores({n: w.detach().abs() for n, w in weights.items()})
    sizes = _sizes(weights, units)
    return _largest({n: s.flatten().double() / sizes[n] for n, s in scores.items()}, sizes, sparsity, _FLOOR)


@DISTRIBUTIONS.register("lamp")
def lamp(weights: Values, units: Units, sparsity: Fraction) -> dict[str, int]:
    """One threshold on w^2 / (sum of the unit's w^2 that are not smaller): LAMP (2010.07611, eq. 4)."""
    scores = {}
    for name, found in units.scores({n: w.detach().double().square() for n, w in weights.items()}).items():
        squares = found.flatten().sort().values
        scores[name] = squares / squares.flip(0).cumsum(0).flip(0).clamp_min(torch.finfo(torch.float64).tiny)
    return _largest(scores, _sizes(weights, units), sparsity, 0.0)


def _sizes(weights: Values, units: Units) -> dict[str, float]:
    """Return the weights in a group of every unit, in the mean: blocks at an edge are smaller than others."""
    return {name: _weights_in(unit, weights) / unit.count for name, unit in units.items()}


def _weights_in(unit: Unit, weights: Values, only: str | None = None) -> int:
    """Return how many entries of its weights, or of one of them, belong to a unit."""
    ones = {n: torch.tensor(float(only in (None, n))).expand_as(weights[n]) for n in unit.weights}
    return round(unit.scores({n: one.double() for n, one in ones.items()}).sum().item())


def _proportion(unit: Unit, weights: Values) -> float:
    """Return the density that ERK's proportion gives to a unit, up to the common scale."""
    raw = {n: sum(weights[n].shape) / weights[n].numel() for n in unit.weights}
    if len(raw) == 1:
        return next(iter(raw.values()))
    parts = {n: _weights_in(unit, weights, n) for n in raw}
    return sum(raw[n] * parts[n] for n in raw) / sum(parts.values())


def _largest(
    scores: Mapping[str, Tensor], sizes: Mapping[str, float], sparsity: Fraction, floor: float
) -> dict[str, int]:
    """Count, per unit, the groups of largest score that fit into the budget's weights, after a floor for each."""
    names = list(scores)
    keep = {name: max(1, math.ceil(floor * s.numel())) for name, s in scores.items()}
    rest = [scores[name].sort(descending=True).values[keep[name] :] for name in names]
    owner = torch.cat([torch.full((len(r),), i) for i, r in enumerate(rest)])
    order = torch.cat([r.cpu() for r in rest]).argsort(descending=True, stable=True)
    cost = torch.tensor([sizes[name] for name in names], dtype=torch.float64)[owner[order]].cumsum(0)
    target = kept_count(round(sum(sizes[name] * scores[name].numel() for name in names)), sparsity)
    left = target - sum(keep[name] * sizes[name] for name in names)
    chosen = torch.bincount(owner[order][cost <= left + _SLACK], minlength=len(names))
    return {name: keep[name] + int(chosen[i]) for i, name in enumerate(names)}


def _round_to(
    wanted: Mapping[str, float], groups: Mapping[str, int], size: Mapping[str, float], target: int
) -> dict[str, int]:
    """Round counts down, then give the weights still owed to the units with the largest remainders."""
    keep = {name: min(groups[name], max(1, math.floor(value + 1e-9))) for name, value in wanted.items()}
    order = sorted(wanted, key=lambda name: math.floor(wanted[name] + 1e-9) - wanted[name])
    for name in order * 2:
        owed = target - sum(keep[n] * size[n] for n in keep)
        if owed >= size[name] - _SLACK and keep[name] < groups[name]:
            keep[name] += 1
    return keep


@dataclass(frozen=True)
class Budget:
    """A target `sparsity` (removed share, 0 <= sparsity < 1) and how it is spread over the network.

    Raises `ValueError` outside that range, `UnknownNameError` for an unknown distribution.
    """

    sparsity: Fraction
    distribution: str = "uniform"

    def __init__(self, sparsity: Fraction | float | str, distribution: str = "uniform") -> None:
        exact = parse_fraction(sparsity)
        if not 0 <= exact < 1:
            raise ValueError(
                f"sparsity {float(exact):g} is not in [0, 1); it is the removed share: 0.99 keeps 1 %"
            )
        DISTRIBUTIONS[distribution]
        object.__setattr__(self, "sparsity", exact)
        object.__setattr__(self, "distribution", distribution)

    def keep(self, weights: Values, groups: Granularity | Units = WEIGHT) -> dict[str, int]:
        """Return the number of groups to keep in each unit, by name.

        `groups`: the units, or a granularity, by which every weight is a unit of its own. Raises `ModelError`
        for a granularity that fixes another density.
        """
        units = separate_units(weights, groups) if isinstance(groups, Granularity) else groups
        reason = budget_conflict(units.granularity, self.distribution, self.sparsity)
        if reason:
            raise ModelError(reason)
        if units.granularity.density is not None:
            return {name: units.granularity.fixed_keep(weights[name]) for name in units}
        return DISTRIBUTIONS[self.distribution](weights, units, self.sparsity)


def budget_conflict(granularity: Granularity, distribution: str, sparsity: Fraction | None = None) -> str | None:
    """Return why a budget does not go with a granularity, or None if it does; of any sparsity if none is given."""
    if granularity.density is None:
        return None
    name, removed = granularity.name, 1 - granularity.density
    if distribution != "uniform":
        return f"{name} keeps one share of every layer, so {distribution} has no choice; set distribution uniform"
    if sparsity not in (None, removed):
        share = f"{float(100 * removed):.4g} %"
        exact = f"{float(removed):g}" if Fraction(f"{float(removed):g}") == removed else str(removed)
        return f"{name} removes exactly {share}; set sparsity {exact}"
    return None
