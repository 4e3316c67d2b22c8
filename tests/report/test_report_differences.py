"""Which differences are real: the best of a sparsity, pairs seed by seed, what cannot be paired."""

from __future__ import annotations

import csv

import pytest
from report_folders import result as made_result

from hedgerow.report.differences import differences, differences_csv, differences_markdown
from hedgerow.result import Evaluation, Measure, Result


def result(words: str, *, asked: float = 0.9, seed: int = 0, **changes: object) -> Result:
    """A result whose verdicts are spelt: r robust, b broken, m misclassified."""
    spelt = {"r": "robust", "b": "broken by fast", "m": "misclassified"}
    share = Measure(correct=0, n=len(words), accuracy=0, low=0, high=1, how="by hand", seed=0)
    evaluation = Evaluation(
        **{
            "split": "test",
            "threat": "linf 1/8",
            "examples": list(range(len(words))),
            "measures": {"clean": share, "worst_case": share},
            "verdicts": [spelt[letter] for letter in words],
            **changes,
        }
    )
    made = made_result("cell", method="magnitude", sparsity=0.9, scored=None)
    counted = made.sparsity.model_copy(update={"asked": asked})
    return made.model_copy(update={"evaluation": evaluation, "sparsity": counted, "recipe": {"seed": seed}})


def test_every_method_is_compared_with_the_best_of_its_sparsity() -> None:
    results = [
        ("good", result("rrrrrrbb")),
        ("poor", result("brbbbbrm")),
        ("good", result("bbbm", asked=0.99)),
        ("poor", result("rbbm", asked=0.99)),
        ("dense", result("rrrr", asked=0.0)),
    ]
    found = differences(results)
    assert [(one.asked, one.method, one.best) for one in found] == [(0.9, "poor", "good"), (0.99, "good", "poor")]
    assert (found[0].method_only, found[0].best_only) == (1, 5)
    assert found[0].p == pytest.approx(2 * 7 / 64)
    (clean,) = differences(results[:2], "clean")
    assert (clean.method_only, clean.best_only, clean.p) == (0, 1, 1.0)


def test_seeds_are_paired_with_their_own_and_the_largest_p_counts() -> None:
    results = [("a", result("rrrrrrrr", seed=s)) for s in (0, 1)]
    results += [("b", result("bbbbbbbb", seed=0)), ("b", result("rrrrrrbb", seed=1)), ("b", result("rr", seed=2))]
    (found,) = differences(results)
    assert found.seeds == [0, 1]
    assert (found.method_only, found.best_only) == (0, 10)
    assert found.p == 0.5
    rows = list(csv.DictReader(differences_csv([found]).splitlines()))
    assert [(row["seed"], row["best_only"], row["both"], float(row["p"])) for row in rows] == [
        ("0", "8", "0", 2 / 256),
        ("1", "2", "6", 0.5),
    ]


@pytest.mark.parametrize(
    "other",
    [{"examples": [5, 6, 7, 8]}, {"threat": "linf 1/4"}, {"split": "given"}, {"measures": {}}],
)
def test_what_was_not_measured_alike_is_not_compared(other: dict[str, object]) -> None:
    if other == {"measures": {}}:
        share = Measure(correct=0, n=4, accuracy=0, low=0, high=1, how="by hand", seed=0)
        other = {"measures": {"clean": share, "fast": share, "worst_case": share}}
    assert differences([("a", result("rrrr")), ("b", result("bbbb", **other))]) == []
    assert differences_markdown([]) == ""


def test_the_table_says_which_differences_are_real() -> None:
    results = [
        ("best", result("r" * 40)),
        ("worse", result("r" * 20 + "b" * 20)),
        ("near", result("r" * 38 + "bb")),
    ]
    table = differences_markdown(differences(results))
    near, worse = table.splitlines()[2:4]
    assert near == "| 90 % | near | best | -5.0 pp | 0 | 2 | 0.5 | not shown |"
    assert worse.startswith("| 90 % | worse | best | -50.0 pp | 0 | 20 | 1.9e-06 | yes |")
    assert "McNemar" in table
    assert "Holm" in table
