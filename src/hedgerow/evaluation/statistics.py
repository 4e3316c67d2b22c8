"""How sure a measured accuracy is, and whether two models differ on the same examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest
from torch import Tensor

from hedgerow.errors import DataError
from hedgerow.result import Measure


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of `correct` out of `n` as shares; (0, 1) when n is 0."""
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(correct, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def measure(correct: Tensor, how: str, seed: int, seconds: float = 0.0) -> Measure:
    """Return the record of an accuracy from `[N]` boolean flags."""
    count, n = int(correct.sum()), len(correct)
    low, high = wilson(count, n)
    return Measure(
        correct=count, n=n, accuracy=count / max(n, 1), low=low, high=high, how=how, seed=seed, seconds=seconds
    )


@dataclass(frozen=True)
class Paired:
    """Two models on the same examples: how many both, only the first, only the second, neither gets right.

    `p` is that of the exact McNemar test: the chance of discordant counts at least as uneven as these if both
    models were equally good. Examples on which they agree say nothing and do not enter it.
    """

    both: int
    first_only: int
    second_only: int
    neither: int
    p: float

    @property
    def difference(self) -> float:
        """Accuracy of the first minus that of the second, -1 to 1; 0 for no examples."""
        n = self.both + self.first_only + self.second_only + self.neither
        return (self.first_only - self.second_only) / max(n, 1)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Return the exact two-sided McNemar comparison of flags `[N]`, one per example and model.

    The discordant examples are split like tosses of a fair coin if the models are equally good (McNemar, 1947, in
    its exact binomial form). Raises `DataError` for different numbers of flags, not of the same examples.
    """
    if len(first) != len(second):
        raise DataError(f"{len(first)} and {len(second)} flags; a paired comparison needs the same examples")
    pairs = Counter((bool(a), bool(b)) for a, b in zip(first, second, strict=True))
    n10, n01 = pairs[True, False], pairs[False, True]
    p = float(binomtest(n10, n10 + n01).pvalue) if n10 + n01 else 1.0
    return Paired(pairs[True, True], n10, n01, pairs[False, False], p)


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Return which of several tests are significant together at `level` (Holm, 1979): the smallest p first.

    The chance that any of them is called significant wrongly is at most `level`, however many there are.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    found = [False] * len(p_values)
    for rank, i in enumerate(order):
        if p_values[i] > level / (len(p_values) - rank):
            break
        found[i] = True
    return found
