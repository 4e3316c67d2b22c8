"""The interval, the words and the integrity checks, each on inputs made by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.evaluation import wilson
from hedgerow.evaluation.statistics import measure
from hedgerow.evaluation.verdicts import check_counts, more_than_one_class, verdict
from hedgerow.result import Measure
from hedgerow.threat import ThreatModel

Z = 1.959963984540054

BALL = "adversarial images lie in the ball and in [0,1]"
ORDER = "attacked accuracy is not above clean accuracy"
STRENGTH = "AutoAttack is not weaker than PGD"


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_the_closed_formula(case: tuple[int, int]) -> None:
    correct, n = case
    p = correct / n
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    low, high = wilson(correct, n)
    assert low == pytest.approx(centre - half, abs=1e-9)
    assert high == pytest.approx(centre + half, abs=1e-9)
    assert 0 <= low <= p <= high <= 1


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (8, 10, 0.4902, 0.9433),
        (1, 1, 0.2065, 1.0),
        (50, 100, 0.4038, 0.5962),
    ],
)
def test_wilson_at_known_values(correct: int, n: int, low: float, high: float) -> None:
    assert wilson(correct, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_of_nothing_is_everything() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_a_measure_counts_its_flags(flags: list[bool]) -> None:
    found = measure(torch.tensor(flags), "by hand", 7, 1.5)
    assert (found.correct, found.n) == (sum(flags), len(flags))
    assert found.accuracy == sum(flags) / len(flags)
    assert (found.low, found.high) == wilson(sum(flags), len(flags))
    assert (found.how, found.seed, found.seconds) == ("by hand", 7, 1.5)


def test_a_measure_of_nothing_claims_nothing() -> None:
    found = measure(torch.zeros(0, dtype=torch.bool), "by hand", 0)
    assert (found.correct, found.n, found.low, found.high) == (0, 0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("clean", "by_pgd", "by_autoattack", "word"),
    [
        (False, False, False, "misclassified"),
        (True, False, False, "broken by pgd"),
        (True, False, True, "broken by pgd"),
        (True, True, False, "broken by autoattack"),
        (True, True, True, "robust"),
        (True, True, None, "robust"),
        (True, False, None, "broken by pgd"),
    ],
)
def test_the_verdict_names_what_breaks_first(
    clean: bool, by_pgd: bool, by_autoattack: bool | None, word: str
) -> None:
    standing = {"clean": clean, "pgd": by_pgd}
    if by_autoattack is not None:
        standing["autoattack"] = by_autoattack
    assert verdict(standing) == word


def measures(**correct: int) -> dict[str, Measure]:
    return {
        name: measure(torch.arange(10) < count, "by hand", 0)
        for name, count in {"clean": 9, "pgd": 5, "autoattack": 4, "worst_case": 4, **correct}.items()
    }


def image() -> torch.Tensor:
    return torch.full((2, 1, 4, 4), 0.5)


def test_checks_pass_on_honest_results() -> None:
    x = image()
    checks = check_counts([x + 0.1, x - 0.1], x, measures(), ThreatModel("linf", "1/10"))
    assert {name: check.outcome for name, check in checks.items()} == dict.fromkeys(
        (BALL, ORDER, STRENGTH), "pass"
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_pixel_outside_the_ball_is_seen(norm: str) -> None:
    x, threat = image(), ThreatModel(norm, "1/10")  # type: ignore[arg-type]
    for distance, inside in ((0.1, True), (0.1001, False), (-0.1001, False)):
        doctored = x.clone()
        doctored[1, 0, 2, 2] += distance
        assert check_counts([doctored], x, measures(), threat)[BALL].passed is inside
        assert check_counts([x, doctored], x, measures(), threat)[BALL].passed is inside


@pytest.mark.parametrize("value", [-0.001, 1.001, float("nan")])
def test_a_pixel_outside_the_range_is_seen(value: float) -> None:
    x = image()
    doctored = x.clone()
    doctored[0, 0, 0, 0] = value
    assert check_counts([doctored], x, measures(), ThreatModel("linf", 1))[BALL].failed
    assert check_counts([doctored], x, measures(), ThreatModel("l2", 10))[BALL].failed


@pytest.mark.parametrize("name", ["pgd", "autoattack", "worst_case"])
def test_an_attack_that_helps_is_seen(name: str) -> None:
    checks = check_counts([image()], image(), measures(**{name: 10}), ThreatModel())
    assert checks[ORDER].failed
    assert checks[BALL].passed


def test_an_autoattack_weaker_than_pgd_is_seen() -> None:
    outcomes = ["pass", "warn", "warn", "fail", "fail"]
    for standing, outcome in zip(range(5, 10), outcomes, strict=True):
        checks = check_counts([image()], image(), measures(autoattack=standing), ThreatModel())
        assert checks[STRENGTH].outcome == outcome
        assert checks[STRENGTH].number == f"{standing} stand under AutoAttack, 5 under PGD, of 10"
        assert checks[BALL].passed
        assert checks[ORDER].passed


def test_without_autoattack_nothing_is_said_of_it() -> None:
    found = measures()
    del found["autoattack"]
    assert STRENGTH not in check_counts([image()], image(), found, ThreatModel())


def test_a_constant_answer_is_noticed() -> None:
    y = torch.tensor([0, 1, 1, 2])
    assert more_than_one_class(torch.ones(4, dtype=torch.int64), y).failed
    assert more_than_one_class(torch.tensor([1, 1, 0, 1]), y).passed
    assert more_than_one_class(torch.ones(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)).passed
