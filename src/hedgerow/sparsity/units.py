"""All units of a network: what a method sees of it, whether groups lie in one weight or in several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from hedgerow.sparsity.granularity import Granularity
from hedgerow.sparsity.mask import Masks
from hedgerow.sparsity.unit import Single, Unit, Values


class Units(Mapping[str, Unit]):
    """All units of a network by name. Every entry of a weight belongs to one group, or to none and stays whole.

    `whole` are the weights without any group; `remarks` say in words what does not come out even.
    """

    def __init__(
        self,
        granularity: Granularity,
        units: Iterable[Unit],
        *,
        weights: Iterable[str],
        remarks: Iterable[str] = (),
    ) -> None:
        self.granularity = granularity
        self._units = {unit.name: unit for unit in units}
        self._on: dict[str, list[Unit]] = {name: [] for name in weights}
        for unit in self._units.values():
            for name in unit.weights:
                self._on[name].append(unit)
        self.whole = frozenset(name for name, units_on_it in self._on.items() if not units_on_it)
        self.remarks = tuple(remarks)

    def __getitem__(self, name: str) -> Unit:
        return self._units[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._units)

    def __len__(self) -> int:
        return len(self._units)

    def on(self, weight: str) -> tuple[Unit, ...]:
        """Return the units that have groups in one weight."""
        return tuple(self._on[weight])

    def scores(self, magnitudes: Values) -> dict[str, Tensor]:
        """Return the l1 norms of all groups, by unit."""
        return {name: unit.scores(magnitudes) for name, unit in self.items()}

    def norms(self, weights: Values) -> dict[str, Tensor]:
        """Return the l2 norms of all groups, by unit."""
        return {name: unit.norms(weights) for name, unit in self.items()}

    def select(self, scores: Values, keep: Mapping[str, int]) -> dict[str, Tensor]:
        """Return which groups live, by unit: as many as `keep` says, those of largest score."""
        return {name: unit.select(scores[name], keep[name]) for name, unit in self.items()}

    def spread(self, groups: Values, name: str, like: Tensor) -> Tensor:
        """Return values per group at the entries of the weight `name`, 1 at those of none; of `like`'s shape."""
        on_it = self._on[name]
        if not on_it:
            dtype = next(iter(groups.values())).dtype if groups else torch.bool
            return torch.ones_like(like, dtype=dtype)
        found = on_it[0].spread(groups[on_it[0].name], name, like)
        for unit in on_it[1:]:
            found = found * unit.spread(groups[unit.name], name, like)
        return found.expand_as(like)

    def mask(self, live: Values, name: str, like: Tensor) -> Tensor:
        """Return the boolean mask of the weight `name` for a boolean per group, by unit."""
        return self.spread(live, name, like).contiguous()

    def masks(self, live: Values, like: Values) -> Masks:
        """Return the masks of all weights, in the order of the model, for a boolean per group, by unit."""
        return {name: self.mask(live, name, like[name]) for name in self._on}

    def coupled(self) -> list[tuple[str, ...]]:
        """Return the weights that have units, together with those that share a unit with them, directly or not."""
        sets: dict[str, set[str]] = {name: {name} for name in self._on if name not in self.whole}
        for unit in self.values():
            joined = set().union(*(sets[name] for name in unit.weights))
            sets.update(dict.fromkeys(joined, joined))
        distinct = {id(members): members for members in sets.values()}
        return [tuple(name for name in self._on if name in members) for members in distinct.values()]


def separate_units(weights: Values, granularity: Granularity, whole: Iterable[str] = ()) -> Units:
    """Return every weight as a unit of its own, but for those that stay `whole`."""
    pruned = {name: weight for name, weight in weights.items() if name not in frozenset(whole)}
    remarks = {name: granularity.remark(weight) for name, weight in pruned.items()}
    return Units(
        granularity,
        [Single(name, granularity, granularity.count(weight)) for name, weight in pruned.items()],
        weights=weights,
        remarks=[f"{name}: {remark}" for name, remark in remarks.items() if remark],
    )
