"""Certified accuracy counted from evidence made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from hedgerow.certify import Smoothing
from hedgerow.evaluation import standing, summarise_certificates, wilson
from hedgerow.result import Certification

SMOOTHING = Smoothing(sigma=0.5, n0=10, n=1000, alpha=0.01, seed=4)


def votes(selected: int, **estimation: int) -> dict[str, Any]:
    return {
        "selection": {str(selected): 10},
        "estimation": {k.removeprefix("c"): v for k, v in estimation.items()},
    }


EVIDENCE = {
    3: votes(1, c1=1000),
    8: votes(0, c0=900, c2=100),
    5: votes(2, c2=510, c0=490),
    9: votes(0, c0=700, c1=300),
    4: votes(1, c0=600, c1=400),
}
LABELS = {3: 1, 8: 0, 5: 2, 9: 1, 4: 0}


def summary(**changes: Any) -> Certification:
    given = {"method": "smoothing", "network": "abc", "split": "test", **changes}
    return summarise_certificates(SMOOTHING, EVIDENCE, LABELS, **given)


def test_the_record_has_the_images_in_order_and_what_is_proved_of_each() -> None:
    found = summary()
    assert [c.example for c in found.certificates] == [3, 8, 5, 9, 4]
    assert [c.label for c in found.certificates] == [1, 0, 2, 1, 0]
    assert [c.prediction for c in found.certificates] == [1, 0, None, 0, None]
    assert [c.answer for c in found.certificates] == [1, 0, 2, 0, 0]
    radii = [c.radius for c in found.certificates]
    assert radii[0] > radii[1] > radii[3] > 0 == radii[2] == radii[4]
    assert [c.evidence for c in found.certificates] == list(EVIDENCE.values())
    assert found.abstained == 2
    assert (found.method, found.norm, found.split, found.network) == ("smoothing", "l2", "test", "abc")
    assert found.settings == {"sigma": 0.5, "n0": 10, "n": 1000, "alpha": 0.01, "seed": 4}
    assert Certification.model_validate_json(found.model_dump_json()) == found


def test_certified_accuracy_counts_right_classes_proved_so_far() -> None:
    found = summary()
    first, second, _, wrong, _ = (c.radius for c in found.certificates)
    assert wrong < second < first
    at = summary(radii=[0, wrong, second, second + 1e-9, first, first + 1e-9]).curve
    assert [a.correct for a in at] == [2, 2, 2, 1, 1, 0]
    assert all(a.n == 5 and a.seed == 4 for a in at)
    assert [(a.low, a.high) for a in at] == [wilson(a.correct, 5) for a in at]
    assert at[0].how == SMOOTHING.describe()
    counts = [a.correct for a in found.curve]
    assert [a.radius for a in found.curve] == SMOOTHING.radii()
    assert counts == sorted(counts, reverse=True)
    assert standing(found.certificates, second).tolist() == [True, True, False, False, False]


def test_at_radius_zero_it_is_not_above_the_smoothed_accuracy() -> None:
    found = summary()
    smoothed = found.plain["smoothed"]
    assert (smoothed.correct, smoothed.n) == (4, 5)
    assert "1,000 draws at sigma 0.5" in smoothed.how
    assert found.curve[0].radius == 0
    assert found.curve[0].correct == 2 <= smoothed.correct
    assert {name: check.outcome for name, check in found.checks.items()} == {
        "certified accuracy is not above plain accuracy": "pass",
        "plain predictions are of more than one class": "pass",
    }
    assert found.checks["certified accuracy is not above plain accuracy"].number.startswith("2 certified, 4 right")


def test_a_constant_classifier_is_noticed() -> None:
    constant = dict.fromkeys(EVIDENCE, votes(1, c1=1000))
    found = summarise_certificates(SMOOTHING, constant, LABELS, method="smoothing", network="abc")
    assert found.checks["plain predictions are of more than one class"].failed


class Boastful(Smoothing):
    """Certifies the label it was not asked for: a broken method, as the check must see it."""

    def conclude(self, evidence: Any) -> Any:
        proof = super().conclude(evidence)
        return type(proof)(prediction=1, radius=1.0, answer=0)


def test_a_method_that_proves_more_than_is_true_is_noticed() -> None:
    found = summarise_certificates(
        Boastful(sigma=0.5), EVIDENCE, dict.fromkeys(LABELS, 1), method="boastful", network="abc"
    )
    assert found.checks["certified accuracy is not above plain accuracy"].failed


def test_an_example_without_a_label_is_an_error() -> None:
    with pytest.raises(KeyError):
        summarise_certificates(SMOOTHING, EVIDENCE, {3: 1}, method="smoothing", network="abc")
