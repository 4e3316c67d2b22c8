"""Planted faults are flagged, each by the check that is meant for it; honest networks are not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import planted
import pytest
import torch
from torch import Tensor, nn

from hedgerow.evaluation import Protocol, evaluate
from hedgerow.models.en_resnet import BlockNoise
from hedgerow.objectives import Natural, Trades
from hedgerow.result import Evaluation
from hedgerow.threat import ThreatModel

N = 50
STILL = ThreatModel("linf", 0)  # nothing to attack: what is looked for does not need it
PROTOCOL = Protocol(pgd_steps=10, pgd_restarts=1, autoattack=False, batch_size=N, eot=2, draws=2)
ZERO, RISING = "gradients are not zero", "ascents end nearer to an error than random starts"
UNBOUNDED, BLACK_BOX = "without a bound nothing stands", "a black-box attack is not better than gradients"
NOISE = "answers do not vary, or the network says that they do"
MODE, BATCHES = "the network computes in evaluation mode", "answers do not depend on batch size or order"
LABELS, SCALE, GRID = (
    "labels belong to the images",
    "pixels are fed as the network expects them",
    "pixels are steps from 0 to 1",
)


def record(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel = planted.THREAT, protocol: Protocol = PROTOCOL
) -> Evaluation:
    return evaluate(model, x[:N], y[:N], threat=threat, protocol=protocol).record


def fit(objective: Any, images: Tensor, labels: Tensor, model: nn.Module, masks: dict[Any, Tensor] | None = None):
    optimizer, dice = torch.optim.Adam(model.parameters(), lr=1e-2), torch.Generator().manual_seed(0)
    for _ in range(2):
        for index in torch.randperm(len(images), generator=dice).split(100):
            optimizer.zero_grad()
            objective(model, images[index], labels[index], dice)[0].backward()
            optimizer.step()
            for weight, mask in (masks or {}).items():
                weight.data.mul_(mask)
    return model.eval()


@pytest.fixture(scope="module")
def honest(trained_once: Any) -> dict[str, nn.Sequential]:
    """Four networks: natural, adversarial training, TRADES, and the second with 80 % of its weights pruned."""
    pruned = copy.deepcopy(trained_once.model)
    masks = {}
    for weight in (pruned[3].weight, pruned[6].weight):
        masks[weight] = (weight.abs() > weight.detach().abs().quantile(0.8)).float()
        weight.data.mul_(masks[weight])
    images, labels = trained_once.train_x, trained_once.train_y
    natural = fit(Natural(), images, labels, planted.digits_network())
    trades = fit(
        Trades(planted.THREAT, steps=2, step_size="1/10"), images[:900], labels[:900], planted.digits_network()
    )
    fit(Natural(), images[:300], labels[:300], pruned, masks)
    return {"natural": natural, "pgd-at": trained_once.model.eval(), "trades": trades, "pruned": pruned}


@pytest.mark.parametrize(
    ("name", "norm"),
    [("natural", "linf"), ("pgd-at", "linf"), ("trades", "linf"), ("pruned", "linf"), ("natural", "l2")],
)
def test_honest_networks_are_not_flagged(honest: Any, trained: Any, name: str, norm: Any) -> None:
    threat = ThreatModel(norm, "1/8" if norm == "linf" else "1/2")
    found = record(honest[name], trained.x, trained.y, threat)
    assert found.measures["clean"].correct > 0.75 * N
    assert found.suspect == []
    assert {check.outcome for check in found.checks.values()} == {"pass"}


@pytest.mark.parametrize("name", planted.MASKED)
def test_masked_gradients_are_caught(honest: Any, trained: Any, name: str) -> None:
    found = record(planted.MASKED[name](honest["natural"]).eval(), trained.x, trained.y)
    assert found.measures["clean"].correct > 0.7 * N
    assert found.measures["pgd"].correct > 0.8 * found.measures["clean"].correct, "the illusion is there"
    assert {ZERO, RISING, UNBOUNDED} <= set(found.suspect)
    assert NOISE not in found.suspect
    assert MODE not in found.suspect
    if name != "saturated softmax":
        assert BLACK_BOX in found.suspect
    only_the_loss = "for the cross-entropy, 0 of " in found.checks[ZERO].number
    assert only_the_loss == (name == "saturated logits"), "there the margin still has a gradient"


@pytest.mark.parametrize("name", planted.RANDOM)
def test_randomness_that_is_not_said_is_caught(honest: Any, trained: Any, name: str) -> None:
    found = record(planted.RANDOM[name](honest["natural"]), trained.x, trained.y, STILL)
    assert NOISE in found.suspect
    assert "does not say that it is stochastic" in found.checks[NOISE].number


def test_randomness_that_is_said_is_no_defence(trained: Any) -> None:
    first, *others = trained.model
    found = record(nn.Sequential(first, BlockNoise(0.2), *others).eval(), trained.x, trained.y)
    assert found.suspect == []
    assert found.checks[NOISE].passed
    assert found.checks[BATCHES].passed
    assert "says that it is stochastic; gradients are means over 2 draws" in found.checks[NOISE].number


def test_a_model_that_cannot_leave_train_mode_is_caught(trained: Any) -> None:
    model = planted.stuck_in_training(copy.deepcopy(trained.model))
    before = copy.deepcopy(model.state_dict())
    found = record(model, trained.x, trained.y, STILL)
    assert {MODE, BATCHES, "clean answers and weights are the same before and after"} <= set(found.suspect)
    assert found.checks[MODE].number.startswith("1 module (1) in train mode and 3 buffers (1.running_mean, ")
    assert not torch.equal(before["1.running_mean"], model.state_dict()["1.running_mean"]), "as any forward would"


def test_a_model_handed_over_in_train_mode_is_evaluated_in_eval_mode_and_told_of(trained: Any) -> None:
    plain = record(trained.model, trained.x, trained.y, STILL)
    found = record(trained.model.train(), trained.x, trained.y, STILL)
    assert found.verdicts == plain.verdicts
    assert found.checks[MODE].outcome == "warn"
    assert "handed over in train mode: 1 module (1), evaluated in eval mode" in found.checks[MODE].number
    assert found.suspect == []


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (lambda y: (y + 1) % 10, "the label 9 classes on"),
        (lambda y: (y - 1) % 10, "the label 1 classes on"),
        (lambda y: y.roll(1), "the label of the image after"),
        (lambda y: y.roll(-1), "the label of the image before"),
    ],
)
def test_shifted_labels_are_caught(trained: Any, shift: Callable[[Tensor], Tensor], words: str) -> None:
    found = record(trained.model, trained.x, shift(trained.y[:N]), STILL)
    assert LABELS in found.suspect
    assert words in found.checks[LABELS].number


MEAN, STD = 0.305, 0.376


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (lambda x: ((x - MEAN) / STD).clamp(0, 1), GRID),
        (lambda x: (x - MEAN) / STD / 4 + 0.25, GRID),
        (lambda x: x / 255, SCALE),
    ],
    ids=["normalised and cut", "normalised and squeezed", "divided by 255 twice"],
)
def test_pixels_on_another_scale_are_caught(honest: Any, trained: Any, change: Any, check: str) -> None:
    x = change(trained.x[:N])
    assert x.min() >= 0
    assert x.max() <= 1
    assert check in record(honest["natural"], x, trained.y, STILL).suspect
