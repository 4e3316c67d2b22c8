"""From predictions to words, and what the counts alone say of an evaluation's soundness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hedgerow.checks import Check, graded, passing
from hedgerow.evaluation.statistics import mcnemar, wilson
from hedgerow.result import Measure, Verdict
from hedgerow.threat import ThreatModel

BALL = "adversarial images lie in the ball and in [0,1]"
ORDER = "attacked accuracy is not above clean accuracy"
STRENGTH = "AutoAttack is not weaker than PGD"
VARIED = "clean predictions are of more than one class"
LABELS = "labels belong to the images"

_BALL_TOLERANCE = 1e-6
_SURE, _UNLIKELY = 1e-3, 0.05  # chances that labels which belong to the images look as if they did not


def verdict(standing: Mapping[str, bool]) -> Verdict:
    """Return the word for one example: what breaks it first, of clean, PGD, AutoAttack, then further attacks."""
    if not standing["clean"]:
        return "misclassified"
    breakers = [name for name, stands in standing.items() if name not in ("clean", "worst_case") and not stands]
    return f"broken by {breakers[0]}" if breakers else "robust"


def check_counts(
    attacked: Sequence[Tensor], x: Tensor, measures: Mapping[str, Measure], threat: ThreatModel
) -> dict[str, Check]:
    """Return the checks of stored images `[N, ...]`, one tensor for each attack, and of the counts."""
    clean, others = measures["clean"].correct, [m.correct for name, m in measures.items() if name != "clean"]
    checks = {
        BALL: _inside(attacked, x, threat),
        ORDER: passing(
            max(others, default=0) <= clean,
            f"{clean} right clean, at most {max(others, default=0)} under attack",
            "counts of all evaluated images",
        ),
    }
    if "autoattack" in measures:
        stronger, weaker = measures["autoattack"], measures["pgd"]
        checks[STRENGTH] = graded(
            stronger.correct - weaker.correct,
            warn=0,
            fail=few(stronger.n),
            number=f"{stronger.correct} stand under AutoAttack, {weaker.correct} under PGD, of {stronger.n}",
            how="counts of all evaluated images",
        )
    return checks


def few(n: int) -> float:
    """Return how many of `n` images may speak against a network before a check of strength fails."""
    return max(2, n / 20)


def more_than_one_class(predictions: Tensor, y: Tensor) -> Check:
    """Return whether `[N]` predictions vary, where the labels do: a constant answer cannot be attacked."""
    said, there = len(torch.unique(predictions)), len(torch.unique(y))
    return passing(
        there < 2 or said > 1, f"{said} classes predicted, {there} in the labels", "all evaluated images"
    )


def labels_belong(predictions: Tensor, y: Tensor, classes: int) -> Check:
    """Return whether other labels fit `[N]` predictions better than `y`: off by some classes, or by one image.

    By the exact McNemar test, divided by the number of such guesses; a warning also where accuracy lies below
    that of guessing.
    """
    right = (predictions == y).tolist()
    guesses = {f"{shift} classes on": (y + shift) % classes for shift in range(1, classes)}
    if len(y) > 1:
        guesses |= {"of the image before": y.roll(1), "of the image after": y.roll(-1)}
    best, chance, agree = "", 1.0, 0
    for name, guess in guesses.items():
        paired = mcnemar((predictions == guess).tolist(), right)
        p = min(1.0, paired.p * len(guesses))
        if paired.difference > 0 and p < chance:
            best, chance, agree = name, p, paired.both + paired.first_only
    below = wilson(sum(right), len(right))[1] < 1 / classes
    number = f"{sum(right)} of {len(right)} predictions are the label"
    if chance < _UNLIKELY:
        number += f", {agree} the label {best} (p {chance:.1g})"
    how = f"all clean predictions against the labels and {len(guesses)} ways of shifting them"
    outcome = "fail" if chance < _SURE else "warn" if chance < _UNLIKELY or below else "pass"
    return Check(outcome=outcome, number=number, how=how)


def _inside(attacked: Sequence[Tensor], x: Tensor, threat: ThreatModel) -> Check:
    # NaN is inside nothing: every comparison asks for what is good.
    limit = float(threat.eps) + _BALL_TOLERANCE
    distances = [threat.distance(images, x) for images in attacked]
    good = all(
        bool((far <= limit).all() and images.min() >= 0 and images.max() <= 1)
        for images, far in zip(attacked, distances, strict=True)
    )
    far = max((float(d.max()) for d in distances), default=0.0)
    low, high = ([float(f(images)) for images in attacked] or [0.0] for f in (torch.amin, torch.amax))
    number = f"distance at most {far:.6g} at eps {float(threat.eps):.6g}, pixels {min(low):.6g} to {max(high):.6g}"
    return passing(good, number, f"every stored image of every attack, tolerance {_BALL_TOLERANCE:g}")
