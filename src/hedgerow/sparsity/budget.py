"""Budget: how many groups of each layer may live, given one target for the whole network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from hedgerow.registry import Registry
from hedgerow.sparsity.granularity import WEIGHT, Granularity
from hedgerow.threat import parse_fraction

Distribution = Callable[[Mapping[str, Tensor], Granularity, Fraction], dict[str, int]]
DISTRIBUTIONS: Registry[Distribution] = Registry("budget distribution")
_FLOOR = 0.01  # share of its groups that a layer keeps under one global threshold


def kept_count(total: int, sparsity: Fraction) -> int:
    """Return `total - floor(sparsity * total)`, exactly, and at least 1.

    Exact rational arithmetic: 0.9 of 10 removes 9, whatever the float rounding of 0.1 would say.
    """
    return max(1, total - math.floor(sparsity * total))


@DISTRIBUTIONS.register("uniform")
def uniform(weights: Mapping[str, Tensor], granularity: Granularity, sparsity: Fraction) -> dict[str, int]:
    """The same share of every layer (HYDRA, 2002.10509; LWM, 1906.06110)."""
    return {name: kept_count(granularity.count(weight), sparsity) for name, weight in weights.items()}


@DISTRIBUTIONS.register("erk")
def erk(weights: Mapping[str, Tensor], granularity: Granularity, sparsity: Fraction) -> dict[str, int]:
    """Density in proportion to (sum of dimensions) / (product of dimensions), none above 1 (1911.11134).

    Layers that the proportion would fill beyond their size stay dense and the rest is shared again. The kept
    weights add up to the whole network's `kept_count` to within one group.
    """
    groups = {name: granularity.count(weight) for name, weight in weights.items()}
    raw = {name: sum(weight.shape) / weight.numel() for name, weight in weights.items()}
    target = kept_count(sum(w.numel() for w in weights.values()), sparsity)
    dense: set[str] = set()
    while True:
        left = target - sum(weights[name].numel() for name in dense)
        share = {name: raw[name] * weights[name].numel() for name in weights if name not in dense}
        scale = left / sum(share.values()) if share else 0.0
        full = {name for name in share if scale * raw[name] > 1}
        if not full:
            break
        dense |= full
    wanted = {name: groups[name] * (1.0 if name in dense else scale * raw[name]) for name in weights}
    return _round_to(wanted, groups, {n: w.numel() // groups[n] for n, w in weights.items()}, target)


@DISTRIBUTIONS.register("global")
def one_threshold(weights: Mapping[str, Tensor], granularity: Granularity, sparsity: Fraction) -> dict[str, int]:
    """One threshold on the mean |w| of a group over all layers; every layer keeps at least 1 % of its groups."""
    scores = {n: granularity.scores(w.detach().abs()).flatten().double() for n, w in weights.items()}
    means = {n: s / (weights[n].numel() / s.numel()) for n, s in scores.items()}
    return _largest(means, weights, kept_count(sum(w.numel() for w in weights.values()), sparsity), _FLOOR)


@DISTRIBUTIONS.register("lamp")
def lamp(weights: Mapping[str, Tensor], granularity: Granularity, sparsity: Fraction) -> dict[str, int]:
    """One threshold on w^2 / (sum of the layer's w^2 that are not smaller): LAMP (2010.07611, eq. 4)."""
    scores = {}
    for name, weight in weights.items():
        squares = granularity.scores(weight.detach().double().square()).flatten().sort().values
        scores[name] = squares / squares.flip(0).cumsum(0).flip(0).clamp_min(torch.finfo(torch.float64).tiny)
    return _largest(scores, weights, kept_count(sum(w.numel() for w in weights.values()), sparsity), 0.0)


def _largest(
    scores: Mapping[str, Tensor], weights: Mapping[str, Tensor], target: int, floor: float
) -> dict[str, int]:
    """Count, per layer, the groups of largest score that fit into `target` weights, after a floor for each."""
    keep = {name: max(1, math.ceil(floor * s.numel())) for name, s in scores.items()}
    size = {name: weights[name].numel() // s.numel() for name, s in scores.items()}
    names = list(scores)
    rest = [scores[name].sort(descending=True).values[keep[name] :] for name in names]
    owner = torch.cat([torch.full((len(r),), i) for i, r in enumerate(rest)])
    order = torch.cat([r.cpu() for r in rest]).argsort(descending=True, stable=True)
    cost = torch.tensor([size[name] for name in names])[owner[order]].cumsum(0)
    left = target - sum(keep[name] * size[name] for name in names)
    chosen = torch.bincount(owner[order][cost <= left], minlength=len(names))
    return {name: keep[name] + int(chosen[i]) for i, name in enumerate(names)}


def _round_to(
    wanted: Mapping[str, float], groups: Mapping[str, int], size: Mapping[str, int], target: int
) -> dict[str, int]:
    """Round counts down, then give the weights still owed to the layers with the largest remainders."""
    keep = {name: min(groups[name], max(1, math.floor(value + 1e-9))) for name, value in wanted.items()}
    order = sorted(wanted, key=lambda name: math.floor(wanted[name] + 1e-9) - wanted[name])
    for name in order * 2:
        owed = target - sum(keep[n] * size[n] for n in keep)
        if owed >= size[name] and keep[name] < groups[name]:
            keep[name] += 1
    return keep


@dataclass(frozen=True)
class Budget:
    """A target `sparsity` (removed share, 0 <= sparsity < 1) and how it is spread over the layers.

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

    def keep(self, weights: Mapping[str, Tensor], granularity: Granularity = WEIGHT) -> dict[str, int]:
        """Return the number of groups to keep in each weight, by name."""
        return DISTRIBUTIONS[self.distribution](weights, granularity, self.sparsity)
