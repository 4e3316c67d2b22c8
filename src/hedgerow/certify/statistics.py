"""The statistics of randomized smoothing: what counted votes prove (Cohen et al., 1902.02918, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.stats import beta, binomtest, norm

from hedgerow.errors import CertificationError


def check_alpha(alpha: float) -> None:
    """Raise `CertificationError` unless 0 < `alpha` < 1."""
    if not 0 < alpha < 1:
        raise CertificationError(
            f"alpha is {alpha}; it is the probability that a certificate is wrong and lies between 0 and 1 "
            "(published: 0.001)"
        )


def check_sigma(sigma: float) -> None:
    """Raise `CertificationError` unless `sigma` is positive and finite."""
    if not 0 < sigma < math.inf:
        raise CertificationError(
            f"sigma is {sigma}; it is the spread of the noise in pixel units and must be above 0 (such as 0.25)"
        )


def check_draws(name: str, count: int, least: int = 1, why: str = "") -> None:
    """Raise `CertificationError` unless `count`, called `name`, is a whole number of at least `least`."""
    if isinstance(count, bool) or not isinstance(count, int) or count < least:
        raise CertificationError(f"{name} is {count!r}; it must be a whole number, {least} or more{why}")


def lower_confidence(successes: int, n: int, alpha: float) -> float:
    """Return the one-sided Clopper-Pearson lower bound on a probability, in [0, 1).

    The probability that lets `n` independent trials succeed `successes` times is below the bound in at most a
    share `alpha` of all experiments, whatever it is. Raises `CertificationError` for n below 1, a count outside
    0..n, and alpha outside (0, 1).
    """
    check_alpha(alpha)
    check_draws("n", n)
    if isinstance(successes, bool) or not isinstance(successes, int) or not 0 <= successes <= n:
        raise CertificationError(f"{successes!r} of {n} draws cannot have succeeded; give a count from 0 to {n}")
    return float(beta.ppf(alpha, successes, n - successes + 1)) if successes else 0.0


def least_draws(alpha: float) -> int:
    """Return the smallest n at which n successes of n prove a probability above one half."""
    check_alpha(alpha)
    n = max(1, math.floor(-math.log2(alpha)))
    while lower_confidence(n, n, alpha) <= 0.5:
        n += 1
    return n


def certified_radius(p_low: float, sigma: float) -> float | None:
    """Return the l2 radius `sigma * Phi^-1(p_low)` (1902.02918, theorem 1); None, to abstain, up to one half.

    `p_low` is a lower bound on the probability of the top class under N(0, sigma^2 I), the rest counted against
    it as one other class. Closer than the radius the smoothed classifier gives that class.
    """
    check_sigma(sigma)
    return sigma * float(norm.ppf(p_low)) if p_low > 0.5 else None


def top_class(votes: Sequence[int]) -> int:
    """Return the class with the most of `[C]` votes, the lower one of two with equally many."""
    return max(range(len(votes)), key=lambda c: (votes[c], -c))


def predicted_class(votes: Sequence[int], alpha: float) -> int | None:
    """Return the smoothed classifier's class for an image with `[C]` votes; None to abstain (PREDICT, 1902.02918).

    The two largest counts are compared by a two-sided binomial test: with probability at least 1 - `alpha` it
    abstains or returns the class that the smoothed classifier really gives (proposition 1). Raises
    `CertificationError` for alpha outside (0, 1) and for no votes.
    """
    check_alpha(alpha)
    first, *others = sorted(votes, reverse=True) or [0]
    if first < 1:
        raise CertificationError("there is no vote to predict from; draw at least once")
    second = others[0] if others else 0
    return top_class(votes) if binomtest(first, first + second, 0.5).pvalue <= alpha else None
