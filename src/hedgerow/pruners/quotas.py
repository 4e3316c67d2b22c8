"""The mathematics of learned densities: what a quota means, how its gradient comes, how counts settle (HARP)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

import torch
from torch import Tensor, nn

from hedgerow.pruners.hydra import ScoredWeight, Selection, straight_through
from hedgerow.sparsity import Budget, Unit, Units

_CLIP = 0.01  # the start keeps this far from both ends of the sigmoid
_NEARLY_ONE = 1 - 1e-9  # its logit is finite, and it rounds to every weight of a layer
_SLACK = 1e-4  # groups; what float rounding of a sigmoid may add to a count that is a whole number


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
    """Return the groups that a real-valued density keeps, `total - floor((1 - density) * total)`, at least 1."""
    return max(1, total - math.floor((1.0 - density) * total + _SLACK))


def through_quota(product: Tensor, weight: Tensor, density: Tensor) -> Tensor:
    """Return `product` (w * m) unchanged, with dL/dk = sum_j w_j G_j over all entries that `density` stands for.

    G is the gradient of the product: straight through the mask, each of whose entries is taken to rise with k.
    `density` is a scalar, or of a shape that broadcasts to `weight`.
    """
    return product + (density - density.detach()) * weight


def shrink(counts: Mapping[str, int], least: Mapping[str, int], target: int) -> dict[str, int]:
    """Scale `counts` down by one factor to add up to exactly `target`, none below its `least`.

    Counts that add up to `target` or less stay. The division is exact; what rounding down leaves over goes to
    the largest remainders. Raises `ValueError` when `least` alone exceeds `target`.
    """
    if sum(counts.values()) <= target:
        return dict(counts)
    if sum(least.values()) > target:
        raise ValueError(f"cannot keep {target} groups: the least of all layers adds up to {sum(least.values())}")
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


def start_densities(
    weights: Mapping[str, Tensor], units: Units, density: Fraction, shape: str
) -> dict[str, float]:
    """Return the density every unit starts at: `density` itself, or its spread by ERK or LAMP."""
    if shape == "uniform":
        return dict.fromkeys(units, float(density))
    keep = Budget(1 - density, shape).keep(weights, units)
    return {name: keep[name] / unit.count for name, unit in units.items()}


class Quota(nn.Module):
    """The learned density of one unit: one number for all its groups, in whichever weights they lie."""

    def __init__(self, unit: Unit, like: Tensor, *, quota: float, least: float) -> None:
        super().__init__()
        precise = torch.promote_types(like.dtype, torch.float32)
        self.quota = nn.Parameter(torch.tensor(quota, dtype=precise, device=like.device))
        self.total = unit.count
        self.least = least

    def density(self) -> Tensor:
        """Return the learned density, a scalar that gradients pass."""
        return density_of(self.quota, self.least)

    def count(self) -> int:
        """Return how many groups the learned density keeps, computed in float64 on every device."""
        density = density_of(self.quota.detach().cpu().double(), self.least)
        return counted(density.item(), self.total)


class QuotaWeight(ScoredWeight):
    """A scored weight whose densities are learned; it holds the quotas of the units that it is the first of."""

    def __init__(self, name: str, scores: Tensor, selection: Selection, quotas: Mapping[str, Quota]) -> None:
        super().__init__(name, scores, selection)
        units = selection.units.on(name)
        self.own = nn.ModuleList(quotas[unit.name] for unit in units if unit.weights[0] == name)
        self.quotas = {unit.name: quotas[unit.name] for unit in units}

    def effective(self, dense: Tensor) -> Tensor:
        """Return w * m(s, k), gradients straight through to the scores and to the quotas of its units.

        Where the mask makes no difference and is not applied, no gradient comes by for the quotas either.
        """
        if self.passes_on:
            return super().effective(dense)
        live = self.selection.live(self.name, {name: quota.count() for name, quota in self.quotas.items()})
        mask = self.selection.units.mask(live, self.name, dense)
        product = straight_through(dense, self.scores, mask)
        spread = {n: q.density().to(dense.dtype).expand(live[n].shape) for n, q in self.quotas.items()}
        return through_quota(product, dense, self.selection.units.spread(spread, self.name, dense))
