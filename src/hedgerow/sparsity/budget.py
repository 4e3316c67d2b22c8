"""Budget: how many groups of each layer may live, given one target for the whole network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from hedgerow.registry import Registry
from hedgerow.sparsity.granularity import WEIGHT, Granularity
from hedgerow.threat import parse_fraction

Distribution = Callable[[Mapping[str, Tensor], Granularity, Fraction], dict[str, int]]
DISTRIBUTIONS: Registry[Distribution] = Registry("budget distribution")


def kept_count(total: int, sparsity: Fraction) -> int:
    """Return `total - floor(sparsity * total)`, exactly, and at least 1.

    Exact rational arithmetic: 0.9 of 10 removes 9, whatever the float rounding of 0.1 would say.
    """
    return max(1, total - math.floor(sparsity * total))


@DISTRIBUTIONS.register("uniform")
def uniform(weights: Mapping[str, Tensor], granularity: Granularity, sparsity: Fraction) -> dict[str, int]:
    """The same share of every layer (HYDRA, 2002.10509; LWM, 1906.06110)."""
    return {name: kept_count(granularity.count(weight), sparsity) for name, weight in weights.items()}


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
