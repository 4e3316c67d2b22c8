"""What holds for every attack: the ball, the pixel range, eps = 0, an untouched model, refused inputs."""

from __future__ import annotations

import pytest
import torch
from attack_table import ATTACKS, images, network, predictions, snapshot
from torch import Tensor, nn

from hedgerow.errors import DataError
from hedgerow.threat import ThreatModel

every_attack = pytest.mark.parametrize("name", ATTACKS)
gradient_attack = pytest.mark.parametrize("name", [name for name in ATTACKS if "autoattack" not in name])


@every_attack
def test_results_lie_in_the_ball_and_in_the_pixel_range(name: str) -> None:
    attack, model, x = ATTACKS[name], network(), images()
    y = predictions(model, x)
    found = attack(model, x, y)
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    assert not found.requires_grad
    assert found.min() >= 0
    assert found.max() <= 1
    distance = ThreatModel(attack.norm, attack.eps).distance(found, x)
    assert (distance <= float(ThreatModel(attack.norm, attack.eps).eps) + 1e-6).all()
    assert (distance > 0).any(), "nothing was changed: the test would pass for no attack at all"


@every_attack
def test_the_given_images_are_not_written_to(name: str) -> None:
    model, x = network(), images()
    y = predictions(model, x)
    before = x.clone(), y.clone()
    ATTACKS[name](model, x, y)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


# Square spends all of its 5000 queries here, and its l2 form takes seconds for them.
@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "autoattack l2"])
def test_radius_zero_returns_the_clean_images(name: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    x = images(1)
    found = ATTACKS[name](model, x, predictions(model, x), eps="0")
    assert torch.equal(found, x)


@every_attack
@pytest.mark.parametrize("training", [False, True])
def test_model_and_global_randomness_are_as_before(name: str, training: bool) -> None:
    model, x = network(), images()
    y = predictions(model, x)
    model.train(training)
    model[2].train(not training)
    for parameter in list(model.parameters())[1:3]:
        parameter.grad = torch.full_like(parameter, 7.0)
    before = snapshot(model)
    ATTACKS[name](model, x, y)
    assert snapshot(model) == before


@every_attack
def test_model_is_as_before_when_the_attack_fails(name: str) -> None:
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no answer")

    model = nn.Sequential(network(), Breaks()).train()
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="no answer"):
        ATTACKS[name](model, images(), torch.zeros(6, dtype=torch.int64))
    assert snapshot(model) == before


@every_attack
def test_attacks_see_the_model_in_eval_mode(name: str) -> None:
    attack, model, x = ATTACKS[name], network(), images()
    y = predictions(model, x)
    expected = attack(model, x, y)
    assert torch.equal(attack(model.train(), x, y), expected)


@every_attack
def test_the_same_call_gives_the_same_images(name: str) -> None:
    attack, model, x = ATTACKS[name], network(), images()
    y = predictions(model, x)
    first = attack(model, x, y)
    torch.rand(3)
    assert torch.equal(attack(model, x, y), first)


@every_attack
def test_attacks_work_inside_no_grad(name: str) -> None:
    attack, model, x = ATTACKS[name], network(), images()
    y = predictions(model, x)
    expected = attack(model, x, y)
    with torch.no_grad():
        assert torch.equal(attack(model, x, y), expected)


@every_attack
def test_an_empty_batch_comes_back_empty(name: str) -> None:
    found = ATTACKS[name](network(), images()[:0], torch.zeros(0, dtype=torch.int64))
    assert found.shape == (0, 1, 8, 8)


@gradient_attack
def test_attacks_keep_double_precision(name: str) -> None:
    model, x = network().double(), images().double()
    assert ATTACKS[name](model, x, predictions(model, x)).dtype == torch.float64


BAD_INPUT = {
    "a pixel above 1": (images() * 1.01, torch.zeros(6, dtype=torch.int64), r"pixels run from .*expected \[0,1\]"),
    "a pixel below 0": (images() - 0.01, torch.zeros(6, dtype=torch.int64), r"pixels run from .*expected \[0,1\]"),
    "a pixel that is no number": (images() / 0.0, torch.zeros(6, dtype=torch.int64), "pixels run from"),
    "8-bit images": ((images() * 255).byte(), torch.zeros(6, dtype=torch.int64), "divide 8-bit pixels by 255"),
    "a negative label": (images(), torch.tensor([0, 1, 2, 0, 1, -1]), "labels run from -1 to 2; expected 0"),
    "labels that are floats": (images(), torch.zeros(6), "expected int64"),
    "labels of 32 bits": (images(), torch.zeros(6, dtype=torch.int32), "expected int64"),
    "too few labels": (images(), torch.zeros(5, dtype=torch.int64), r"expected int64 \[6\]"),
    "one-hot labels": (images(), torch.zeros(6, 3, dtype=torch.int64), r"\[6, 3\]; expected int64 \[6\]"),
}


@every_attack
@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused(name: str, case: str) -> None:
    x, y, words = BAD_INPUT[case]
    with pytest.raises(DataError, match=words):
        ATTACKS[name](network(), x, y)
