"""Paired comparisons against the binomial sum written out and scipy, and Holm's rule against its definition."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from hedgerow.errors import DataError
from hedgerow.evaluation.statistics import holm, mcnemar


def flags(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    one = [True] * (both + first) + [False] * (second + neither)
    other = [True] * both + [False] * first + [True] * second + [False] * neither
    return one, other


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_counts_and_p_are_those_of_the_fair_coin(both: int, first: int, second: int, neither: int) -> None:
    found = mcnemar(*flags(both, first, second, neither))
    assert (found.both, found.first_only, found.second_only, found.neither) == (both, first, second, neither)
    n = first + second
    tail = sum(math.comb(n, k) for k in range(min(first, second) + 1)) / 2**n
    assert found.p == pytest.approx(min(1.0, 2 * tail))
    assert found.p == pytest.approx(min(1.0, 2 * binom.cdf(min(first, second), n, 0.5)))
    assert found.difference == pytest.approx((first - second) / max(both + first + second + neither, 1))


def test_known_values_and_limits() -> None:
    assert mcnemar(*flags(0, 5, 0, 0)).p == pytest.approx(2 / 32)
    assert mcnemar(*flags(90, 15, 3, 2)).p == pytest.approx(0.0075378, abs=1e-6)
    assert mcnemar(*flags(10, 0, 0, 10)).p == 1.0
    assert mcnemar([], []).p == 1.0
    assert mcnemar([], []).difference == 0.0
    one, other = flags(7, 9, 2, 4)
    forth, back = mcnemar(one, other), mcnemar(other, one)
    assert forth.p == back.p
    assert forth.difference == -back.difference


def test_flags_of_different_examples_are_refused() -> None:
    with pytest.raises(DataError, match="3 and 2 flags; a paired comparison needs the same examples"):
        mcnemar([True, True, False], [True, False])


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_its_step_down(p: list[float]) -> None:
    found = holm(p)
    for i, value in enumerate(p):
        smaller = [other for other in p if other <= value]
        # Significant when its p and every smaller one meet its own limit in the order.
        met = all(other <= 0.05 / (len(p) - sorted(p).index(other)) for other in smaller)
        if p.count(value) == 1 and all(p.count(other) == 1 for other in smaller):
            assert found[i] == met
        assert not (found[i] and value > 0.05)
        assert found[i] or value > 0.05 / len(p), "Bonferroni's are among them"


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == [False, True, False]
    assert holm([0.02, 0.01, 0.025]) == [True, True, True]
    assert holm([]) == []
