"""The bound, the radius and the two rules of abstention against sums of exact binomial probabilities."""

from __future__ import annotations

import math
from fractions import Fraction
from statistics import NormalDist
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from hedgerow.certify import certified_radius, lower_confidence, predicted_class
from hedgerow.certify.statistics import least_draws, top_class
from hedgerow.errors import CertificationError


def at_least(k: int, n: int, p: Fraction) -> Fraction:
    """P(Binomial(n, p) >= k), exactly."""
    return sum((math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1)), Fraction(0))


@given(
    st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(1e-6, 0.5 - 1e-6)
)
@settings(max_examples=60, deadline=None)
def test_the_bound_is_that_of_scipys_exact_interval(case: tuple[int, int], alpha: float) -> None:
    successes, n = case
    two_sided = binomtest(successes, n).proportion_ci(confidence_level=1 - 2 * alpha, method="exact")
    assert lower_confidence(successes, n, alpha) == pytest.approx(float(two_sided.low), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(1, 1), (1, 7), (5, 9), (9, 9), (30, 40), (99, 100)])
@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.7])
def test_at_the_bound_so_many_successes_have_probability_alpha(k: int, n: int, alpha: float) -> None:
    low = lower_confidence(k, n, alpha)
    assert float(at_least(k, n, Fraction(low))) == pytest.approx(alpha, rel=1e-9)


@pytest.mark.parametrize("alpha", [0.01, 0.2])
def test_the_bound_exceeds_the_truth_in_at_most_alpha_of_all_experiments(alpha: float) -> None:
    n = 25
    bounds = [lower_confidence(k, n, alpha) for k in range(n + 1)]
    assert bounds == sorted(bounds)
    for step in range(1, 50):
        p = Fraction(step, 50)
        first = next((k for k, low in enumerate(bounds) if low > p), None)
        assert first is None or at_least(first, n, p) <= alpha


def test_all_successes_have_a_closed_form_and_none_prove_nothing() -> None:
    assert lower_confidence(10_000, 10_000, 0.001) == pytest.approx(0.001 ** (1 / 10_000), rel=1e-12)
    assert lower_confidence(0, 50, 0.001) == 0.0


@pytest.mark.parametrize(("successes", "radius"), [(9000, 0.3072), (10_000, 0.7996)])
def test_known_radii(successes: int, radius: float) -> None:
    assert certified_radius(lower_confidence(successes, 10_000, 0.001), 0.25) == pytest.approx(radius, abs=5e-5)


@given(st.floats(0.5 + 1e-9, 1 - 1e-9), st.floats(1e-3, 10))
def test_the_radius_is_sigma_times_the_normal_quantile(p_low: float, sigma: float) -> None:
    radius = certified_radius(p_low, sigma)
    assert radius is not None
    assert radius == pytest.approx(sigma * NormalDist().inv_cdf(p_low), rel=1e-6, abs=1e-12)
    assert radius > 0


@pytest.mark.parametrize("p_low", [0.0, 0.3, 0.5])
def test_up_to_one_half_it_abstains(p_low: float) -> None:
    assert certified_radius(p_low, 0.25) is None


def test_as_few_draws_as_can_certify() -> None:
    for alpha in (0.001, 0.01, 0.05, 0.5, 0.9):
        n = least_draws(alpha)
        assert alpha ** (1 / n) > 0.5
        assert n == 1 or alpha ** (1 / (n - 1)) <= 0.5


@given(st.lists(st.integers(0, 60), min_size=2, max_size=5).filter(any), st.floats(1e-4, 0.5))
@settings(deadline=None)
def test_prediction_is_the_two_sided_test_of_the_two_largest_counts(votes: list[int], alpha: float) -> None:
    first, second = sorted(votes, reverse=True)[:2]
    pvalue = min(Fraction(1), 2 * at_least(first, first + second, Fraction(1, 2)))
    if abs(float(pvalue) - alpha) > 1e-9:
        assert predicted_class(votes, alpha) == (votes.index(first) if pvalue <= alpha else None)


def test_prediction_abstains_on_a_tie_and_on_too_few_votes() -> None:
    assert predicted_class([50, 50, 3], 0.5) is None
    assert predicted_class([3, 0], 0.001) is None
    assert predicted_class([0, 40, 2], 0.001) == 1
    assert predicted_class([40], 0.001) == 0


def test_of_equal_counts_the_lower_class_is_on_top() -> None:
    assert top_class([1, 4, 4]) == 1
    assert top_class([0, 0]) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lower_confidence(1, 0, 0.1), "n is 0; it must be a whole number, 1 or more"),
        (lambda: lower_confidence(1, True, 0.1), "n is True"),
        (lambda: lower_confidence(5, 4, 0.1), "5 of 4 draws cannot have succeeded; give a count from 0 to 4"),
        (lambda: lower_confidence(-1, 4, 0.1), "-1 of 4 draws"),
        (lambda: lower_confidence(0.5, 4, 0.1), "0.5 of 4 draws"),  # type: ignore[arg-type]
        (lambda: lower_confidence(1, 4, 0.0), "alpha is 0.0; it is the probability that a certificate is wrong"),
        (lambda: lower_confidence(1, 4, 1.0), "alpha is 1.0"),
        (lambda: lower_confidence(1, 4, math.nan), "alpha is nan"),
        (lambda: certified_radius(0.9, 0.0), "sigma is 0.0; it is the spread of the noise"),
        (lambda: certified_radius(0.9, math.inf), "sigma is inf"),
        (lambda: predicted_class([3, 1], 2.0), "alpha is 2.0"),
        (lambda: predicted_class([0, 0], 0.1), "there is no vote to predict from"),
        (lambda: predicted_class([], 0.1), "there is no vote to predict from"),
    ],
)
def test_bad_numbers_are_refused(call: Any, message: str) -> None:
    with pytest.raises(CertificationError, match=message.replace("(", r"\(")):
        call()
