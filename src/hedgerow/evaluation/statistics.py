"""How sure a measured accuracy is."""

from __future__ import annotations

from scipy.stats import binomtest


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of `correct` out of `n` as shares; (0, 1) when n is 0."""
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(correct, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)
