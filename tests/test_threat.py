"""The threat model: exact radii, and projections checked against closed forms and by properties."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.threat import ThreatModel, parse_fraction, per_example_norm

NORMS = ["linf", "l2"]
RADII = ["0", "1/255", "8/255", "1/2", "1"]
TOLERANCE = 1e-6

threats = st.builds(ThreatModel, st.sampled_from(NORMS), st.sampled_from(RADII))
seeds = st.integers(0, 10_000)
spreads = st.sampled_from([0.001, 0.1, 3.0])


def images(seed: int) -> torch.Tensor:
    """Images with pixels on both ends of the range as well as inside."""
    pixels = torch.rand(4, 2, 3, 3, generator=torch.Generator().manual_seed(seed)) * 1.4 - 0.2
    return pixels.clamp(0, 1)


def noise(seed: int, spread: float) -> torch.Tensor:
    return torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(seed + 1)) * spread


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("8/255", Fraction(8, 255)),
        (" 8 / 255 ", Fraction(8, 255)),
        ("0.031", Fraction(31, 1000)),
        (0.031, Fraction(31, 1000)),
        (0.1, Fraction(1, 10)),
        ("1e-3", Fraction(1, 1000)),
        ("0.5/255", Fraction(1, 510)),
        (2, Fraction(2)),
        ("-1/4", Fraction(-1, 4)),
        (Fraction(3, 7), Fraction(3, 7)),
    ],
)
def test_numbers_are_read_exactly(value: object, expected: Fraction) -> None:
    assert parse_fraction(value) == expected


@given(st.integers(-1000, 1000), st.integers(1, 1000))
def test_written_fractions_come_back(numerator: int, denominator: int) -> None:
    assert parse_fraction(f"{numerator}/{denominator}") == Fraction(numerator, denominator)
    assert parse_fraction(str(Fraction(numerator, denominator))) == Fraction(numerator, denominator)


@pytest.mark.parametrize(
    "value",
    ["", "eight", "1/0", "0/0", "8/", "/255", "1/2/3", "8 255", float("nan"), float("inf"), True, None, [8]],
)
def test_anything_else_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ValueError, match="is not a number; write a fraction such as 8/255"):
        parse_fraction(value)


@pytest.mark.parametrize(
    ("norm", "eps", "words"),
    [
        ("linf", 8, "did you mean 8/255"),
        ("linf", "8", "did you mean 8/255"),
        ("linf", 1.5, "above 1"),
        ("linf", "-1/255", "negative"),
        ("l2", -1, "negative"),
        ("l1", "8/255", "allowed: linf, l2"),
        ("linf", "much", "not a number"),
    ],
)
def test_impossible_threats_are_refused(norm: Any, eps: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ThreatModel(norm, eps)


def test_a_threat_is_a_value() -> None:
    threat = ThreatModel("linf", "16/510")
    assert threat == ThreatModel()
    assert threat != ThreatModel("l2", "8/255")
    assert threat == ThreatModel("linf", Fraction(8, 255))
    assert str(threat) == "linf 8/255"
    assert ThreatModel("l2", 2).with_eps("1/2") == ThreatModel("l2", 0.5)
    assert {threat: 1}[ThreatModel()] == 1
    with pytest.raises(AttributeError):
        threat.eps = Fraction(1)  # type: ignore[misc]


@settings(deadline=None)
@given(threats, seeds, spreads)
def test_projections_land_in_the_ball_and_in_range(threat: ThreatModel, seed: int, spread: float) -> None:
    x = images(seed)
    projected = threat.project(x + noise(seed, spread), x)
    assert projected.min() >= 0
    assert projected.max() <= 1
    delta = projected - x
    reach = delta.abs().amax((1, 2, 3)) if threat.norm == "linf" else delta.square().sum((1, 2, 3)).sqrt()
    assert (reach <= float(threat.eps) + TOLERANCE).all()
    assert torch.allclose(threat.distance(projected, x), reach, atol=TOLERANCE)
    again = threat.project(projected, x)
    assert torch.allclose(again, projected, atol=TOLERANCE, rtol=0)


@settings(deadline=None)
@given(threats, seeds)
def test_projection_leaves_what_is_inside(threat: ThreatModel, seed: int) -> None:
    x = images(seed)
    delta = noise(seed, 1.0)
    reach = delta.abs().amax((1, 2, 3)) if threat.norm == "linf" else delta.square().sum((1, 2, 3)).sqrt()
    inside = (x + 0.9 * float(threat.eps) * delta / reach.view(-1, 1, 1, 1)).clamp(0, 1)
    assert torch.allclose(threat.project(inside, x), inside, atol=TOLERANCE, rtol=0)
    assert torch.equal(threat.project(x, x), x)


def test_projections_equal_their_formulas_pixel_by_pixel() -> None:
    x, perturbed = images(3), images(3) + noise(3, 0.4)
    linf, l2 = ThreatModel("linf", "1/10").project(perturbed, x), ThreatModel("l2", "1/2").project(perturbed, x)
    for n in range(len(x)):
        shift = [p - o for p, o in zip(perturbed[n].flatten().tolist(), x[n].flatten().tolist(), strict=True)]
        length = sum(s * s for s in shift) ** 0.5
        for i, (original, s) in enumerate(zip(x[n].flatten().tolist(), shift, strict=True)):
            by_linf = min(max(original + min(max(s, -0.1), 0.1), 0.0), 1.0)
            by_l2 = min(max(original + s * min(1.0, 0.5 / length), 0.0), 1.0)
            assert linf[n].flatten()[i].item() == pytest.approx(by_linf, abs=TOLERANCE)
            assert l2[n].flatten()[i].item() == pytest.approx(by_l2, abs=TOLERANCE)


@pytest.mark.parametrize("norm", NORMS)
def test_radius_zero_projects_onto_the_image_itself(norm: Any) -> None:
    x = images(0)
    assert torch.equal(ThreatModel(norm, 0).project(x + noise(0, 1.0), x), x)


@settings(deadline=None)
@given(threats, seeds)
def test_random_starts_lie_in_the_ball(threat: ThreatModel, seed: int) -> None:
    x = images(seed)
    start = threat.random_start(x, torch.Generator().manual_seed(seed))
    assert start.min() >= 0
    assert start.max() <= 1
    assert (threat.distance(start, x) <= float(threat.eps) + TOLERANCE).all()
    assert torch.equal(start, threat.random_start(x, torch.Generator().manual_seed(seed)))
    if threat.eps:
        assert not torch.equal(start, threat.random_start(x, torch.Generator().manual_seed(seed + 1)))


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_fill_the_ball_evenly(norm: Any) -> None:
    """In d dimensions (reach / eps)^d of a uniform point is itself uniform: quarters hold equal shares."""
    d = 3
    x = torch.full((8000, d, 1, 1), 0.5)
    threat = ThreatModel(norm, "1/4")
    start = threat.random_start(x, torch.Generator().manual_seed(0))
    share = (threat.distance(start, x) / 0.25) ** d
    counts = torch.histc(share, bins=4, min=0, max=1) / len(x)
    assert torch.allclose(counts, torch.full((4,), 0.25), atol=0.03)
    assert (start - x).mean(0).abs().max() < 0.01


@pytest.mark.parametrize("norm", NORMS)
def test_an_empty_batch_stays_empty(norm: Any) -> None:
    threat, none = ThreatModel(norm, "1/4"), torch.zeros(0, 1, 4, 4)
    assert threat.random_start(none, None).shape == none.shape
    assert threat.project(none, none).shape == none.shape
    assert threat.distance(none, none).shape == (0,)


def test_steepest_raises_a_linear_loss_more_than_any_other_unit_step() -> None:
    gradient = noise(5, 1.0)
    assert torch.equal(ThreatModel("linf", "1/4").steepest(gradient), gradient.sign())
    l2 = ThreatModel("l2", "1/4").steepest(gradient)
    lengths = gradient.square().sum((1, 2, 3)).sqrt()
    assert torch.allclose(l2, gradient / lengths.view(-1, 1, 1, 1))
    assert torch.allclose(per_example_norm(l2).flatten(), torch.ones(4))
    for trial in range(20):
        other = noise(100 + trial, 1.0)
        on_sphere = other / other.square().sum((1, 2, 3), keepdim=True).sqrt()
        in_box = other / other.abs().amax((1, 2, 3), keepdim=True)
        assert ((gradient * l2).sum((1, 2, 3)) >= (gradient * on_sphere).sum((1, 2, 3))).all()
        assert ((gradient * gradient.sign()).sum((1, 2, 3)) >= (gradient * in_box).sum((1, 2, 3))).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_vanished_gradient_gives_no_step_and_no_nan(norm: Any) -> None:
    zero = torch.zeros(2, 1, 3, 3)
    assert torch.equal(ThreatModel(norm, "1/4").steepest(zero), zero)
