"""AutoAttack through its own package: few classes, both norms, and no side effects of the package."""

from __future__ import annotations

import logging

import pytest
import torch
from attack_table import images, network, predictions
from torch import nn

from hedgerow.attacks import autoattack, pgd
from hedgerow.attacks.autoattack import describe
from hedgerow.errors import DataError
from hedgerow.threat import Norm, ThreatModel


def linear(classes: int) -> nn.Module:
    torch.manual_seed(classes)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


@pytest.mark.parametrize(
    ("classes", "norm", "eps"),
    [(2, "linf", 0.02), (3, "linf", 0.02), (5, "linf", 0.01), (3, "l2", 0.15)],
)
def test_it_runs_on_few_classes_and_is_not_weaker_than_pgd(classes: int, norm: Norm, eps: float) -> None:
    model, x = linear(classes), images(24)
    y = predictions(model, x)
    threat = ThreatModel(norm, eps)
    found = autoattack(model, x, y, threat=threat, num_classes=classes)
    holds = predictions(model, found) == y
    by_pgd = predictions(model, pgd(model, x, y, threat=threat, steps=20, restarts=1)) == y
    assert (holds <= by_pgd).all()
    assert 0 < holds.sum() < len(x), "the radius must leave some and break some"
    assert torch.equal(found[holds], x[holds]), "unbroken images come back unchanged"
    assert (threat.distance(found, x) <= eps + 1e-6).all()
    assert (threat.distance(found, x)[~holds] > 0).all()


def test_misclassified_images_come_back_unchanged() -> None:
    model, x = network(), images()
    y = (predictions(model, x) + 1) % 3
    found = autoattack(model, x, y, threat=ThreatModel("linf", "1/2"), num_classes=3)
    assert torch.equal(found, x)


def test_the_seed_decides_and_the_batch_size_only_splits() -> None:
    model, x = network(), images()
    y = predictions(model, x)
    threat = ThreatModel("linf", "1/2")
    runs = [autoattack(model, x, y, threat=threat, num_classes=3, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    in_parts = autoattack(model, x, y, threat=threat, num_classes=3, batch_size=4)
    assert (predictions(model, in_parts) != y).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_the_description_admits_a_protocol_that_is_not_standard(classes: int) -> None:
    assert "not standard" in describe(classes)
    assert "APGD-T needs 4 classes" in describe(classes)


def test_the_description_of_the_standard_protocol() -> None:
    assert "not standard" not in describe(4)
    assert "3 target classes" in describe(4)
    assert "8 target classes" in describe(9)
    for classes in (10, 1000):
        assert describe(classes).startswith("AutoAttack standard (pyautoattack ")
        assert "target classes" not in describe(classes)


def test_the_package_is_quiet_only_while_it_runs(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("auto-attack")
    logger.setLevel(logging.DEBUG)
    model, x = network(), images()
    autoattack(model, x, predictions(model, x), threat=ThreatModel("linf", "1/2"), num_classes=3)
    assert not caplog.records
    assert logger.level == logging.DEBUG
    logger.debug("still heard")
    assert caplog.messages == ["still heard"]
    logger.setLevel(logging.NOTSET)


def test_a_listener_hears_of_each_attack() -> None:
    model, x = network(), images()
    heard: list[str] = []
    y = predictions(model, x)
    options = {"threat": ThreatModel("linf", "1/2"), "num_classes": 3}
    found = autoattack(model, x, y, **options, tell=heard.append)
    order = [f"AutoAttack: running {name}" for name in ("apgd-ce", "fab-t", "square")]
    assert heard
    assert heard == order[: len(heard)]
    assert torch.equal(found, autoattack(model, x, y, **options))
    assert not logging.getLogger("auto-attack").handlers


def test_input_that_only_autoattack_minds() -> None:
    model, x, y = network(), images(), torch.zeros(6, dtype=torch.int64)
    threat = ThreatModel("linf", "1/2")
    with pytest.raises(DataError, match="float64; AutoAttack runs in float32"):
        autoattack(model, x.double(), y, threat=threat, num_classes=3)
    with pytest.raises(DataError, match="at least two classes"):
        autoattack(model, x, y, threat=threat, num_classes=1)
    with pytest.raises(DataError, match="labels run from 0 to 3; expected 0 to 2"):
        autoattack(model, x, torch.tensor([0, 1, 2, 0, 1, 3]), threat=threat, num_classes=3)
