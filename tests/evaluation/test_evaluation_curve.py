"""The security curve, against a network whose distance to the boundary is known, and layers pruned by hand."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from planes import Plane
from torch import nn

from hedgerow.errors import DataError
from hedgerow.evaluation import Protocol, add_curve, evaluate, layer_sensitivity
from hedgerow.evaluation.curve import CHECK, rises
from hedgerow.result import Evaluation
from hedgerow.threat import ThreatModel

THREAT = ThreatModel("linf", "1/10")
QUICK = Protocol(pgd_steps=12, pgd_restarts=1, autoattack=False, integrity=0)
LEVELS = [0.1, 0.2, 0.34, 0.44, 0.56, 0.66, 0.8, 0.9]  # of whole images; the boundary is at one half
RADII = [Fraction(3, 20), Fraction(1, 20), Fraction(7, 20)]


X = torch.tensor(LEVELS).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
Y = torch.tensor([int(level > 0.5) for level in LEVELS])


def curved(folder: Path | None = None, **changes: Any) -> Evaluation:
    record = evaluate(Plane(), X, Y, threat=THREAT, protocol=QUICK).record
    given = {"radii": RADII, "threat": THREAT, "protocol": QUICK, "folder": folder, **changes}
    add_curve(record, Plane(), X, Y, **given)
    return record


def test_of_a_plane_the_curve_counts_the_images_farther_than_each_radius() -> None:
    record = curved()
    assert [at.eps for at in record.curve] == ["1/20", "1/10", "3/20", "7/20"], "the threat's own is among them"
    for at in record.curve:
        farther = sum(abs(level - 0.5) > Fraction(at.eps) for level in LEVELS)
        assert (at.correct, at.n) == (farther, len(LEVELS))
        assert f"linf {at.eps}" in at.how
    assert record.checks[CHECK].passed
    assert record.checks[CHECK].number.startswith("0 images")
    own = record.curve[1]
    assert own.correct == record.measures["pgd"].correct


def test_finished_batches_of_every_radius_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = curved(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["radius-1_20", "radius-3_20", "radius-7_20"]
    monkeypatch.setattr("hedgerow.evaluation.chunks.pgd", None)
    again = Evaluation.model_validate({**first.model_dump(), "curve": []})
    add_curve(again, Plane(), X, Y, radii=RADII, threat=THREAT, protocol=QUICK, folder=tmp_path)
    assert [at.correct for at in again.curve] == [at.correct for at in first.curve]


def test_an_image_broken_at_a_radius_counts_at_no_larger_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stands = {"1/20": "rrrrrrbb", "3/20": "bbbbbbbb", "7/20": "rrrrrrrr"}

    @dataclass
    class Found:
        record: Evaluation

    def attacked(*args: Any, threat: ThreatModel, **kwargs: Any) -> Found:
        record = evaluate(*args, threat=threat, **kwargs).record
        words = stands[str(threat.eps)]
        record.verdicts = ["robust" if letter == "r" else "broken by pgd" for letter in words]
        right = words.count("r")
        pgd = record.measures["pgd"].model_copy(update={"correct": right, "accuracy": right / len(words)})
        record.measures["pgd"] = pgd
        return Found(record)

    monkeypatch.setattr("hedgerow.evaluation.curve.evaluate", attacked)
    record = curved(radii=[Fraction(1, 20), Fraction(3, 20), Fraction(7, 20)])
    assert [at.correct for at in record.curve] == [6, 4, 0, 0]
    assert record.checks[CHECK].failed, "accuracy rises from 0 to all with the radius"
    assert record.checks[CHECK].number == "10 images stood at a radius though a smaller one had broken them"


def test_a_rise_within_the_interval_is_chance() -> None:
    at = curved().curve[0]
    low, high = (at.model_copy(update={"accuracy": a, "high": a + 0.1}) for a in (0.5, 0.59))
    assert not rises([low, high])
    assert rises([low, high.model_copy(update={"accuracy": 0.61})])
    assert not rises([high, low])


@pytest.mark.parametrize("radius", [Fraction(0), Fraction(-1, 255)])
def test_a_radius_that_attacks_nothing_is_refused(radius: Fraction) -> None:
    with pytest.raises(DataError, match="radii of a curve are above 0"):
        curved(radii=[radius])


def small_net() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_each_layer_alone_loses_its_smallest_weights_and_gets_them_back(share: float) -> None:
    model = small_net()
    with torch.no_grad():
        model[1].weight[0] = 0.0  # pruned already
    before = copy.deepcopy(model.state_dict())
    found = layer_sensitivity(model, X, Y, share=share, threat=THREAT, protocol=QUICK)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [one.layer for one in found.layers] == ["1.weight", "3.weight"]
    assert found.whole == evaluate(model, X, Y, threat=THREAT, protocol=QUICK).record.measures["pgd"].model_copy(
        update={"seconds": found.whole.seconds}
    )
    for one, index, nonzeros in zip(found.layers, (1, 3), (20, 12), strict=True):
        assert one.removed == round(share * nonzeros)
        by_hand = copy.deepcopy(model)
        weight = by_hand[index].weight
        values = sorted((abs(v), i) for i, v in enumerate(weight.flatten().tolist()) if v)
        with torch.no_grad():
            for _, i in values[: one.removed]:
                weight.view(-1)[i] = 0.0
        expected = evaluate(by_hand, X, Y, threat=THREAT, protocol=QUICK).record.measures["pgd"]
        assert one.measure.correct == expected.correct


def test_without_any_weight_of_a_layer_nothing_depends_on_the_image() -> None:
    found = layer_sensitivity(small_net(), X, Y, share=1.0, threat=THREAT, protocol=QUICK)
    assert all(one.measure.correct in (0, 4) for one in found.layers), "a constant answer is right on one class"


def test_the_weights_come_back_when_the_evaluation_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = small_net(), []

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) > 1:
            raise DataError("stop")
        return evaluate(*args, **kwargs)

    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr("hedgerow.evaluation.sensitivity.evaluate", failing)
    with pytest.raises(DataError, match="stop"):
        layer_sensitivity(model, X, Y, share=0.5, threat=THREAT)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(DataError, match=f"share {share} of a layer's weights cannot be removed"):
        layer_sensitivity(small_net(), X, Y, share=share, threat=THREAT)
