"""The attacks by name: what holds for each of them, few classes, C&W against the exact distance, bad settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attack_table import images, network, predictions, snapshot
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.attacks import ATTACKS, Scene, carlini_wagner, fast, ifgsm
from hedgerow.attacks.carlini_wagner import next_constants
from hedgerow.errors import DataError, ModelError
from hedgerow.models.en_resnet import BlockNoise
from hedgerow.stochastic import Averaged
from hedgerow.threat import ThreatModel

SETTINGS: dict[str, dict[str, Any]] = {
    "fgsm": {},
    "ifgsm": {"steps": 5},
    "apgd-ce": {"steps": 8, "restarts": 2},
    "apgd-dlr": {"steps": 8},
    "apgd-t": {"steps": 8, "targets": 2},
    "fab": {},
    "fab-t": {},
    "cw": {"steps": 20, "searches": 4, "constant": 1.0, "lr": 0.05},
    "fast": {},
}  # Square is tried where it breaks everything at once: it spends all its queries on what stands
every_attack = pytest.mark.parametrize("name", SETTINGS)


def scene_of(name: str, classes: int = 3, **changes: Any) -> Scene:
    # FAB changes nothing where it finds nothing in the ball, and the fast protocol is long on what stands.
    eps = "1/2" if name in ("fab", "fab-t", "fast") else "8/255"
    threat = ThreatModel("linf", eps) if "linf" in ATTACKS[name].norms else ThreatModel("l2", "1/2")
    return Scene(**{"threat": threat, "num_classes": classes, **changes})


def made(name: str) -> Any:
    return ATTACKS[name](**SETTINGS.get(name, {}))


def test_every_attack_by_name_is_tried_here() -> None:
    assert {*SETTINGS, "square"} == set(ATTACKS)


@every_attack
def test_images_lie_in_the_ball_and_nothing_else_changes(name: str) -> None:
    model, x, scene = network(), images(), scene_of(name)
    y = predictions(model, x)
    before = snapshot(model.train())
    found = made(name)(model, x, y, scene)
    assert snapshot(model) == before
    model.eval()
    assert found.shape == x.shape
    assert not found.requires_grad
    assert (scene.threat.distance(found, x) <= float(scene.threat.eps) + 1e-6).all()
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found != x).any()
    assert torch.equal(found, made(name)(model, x, y, scene)), "the seed decides"


@every_attack
@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_run_and_the_words_say_what_ran(name: str, classes: int) -> None:
    torch.manual_seed(classes)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    x, scene = images(4), scene_of(name, classes)
    y = predictions(model, x)
    assert made(name)(model, x, y, scene).shape == x.shape
    words = made(name).describe(scene)
    if name == "apgd-dlr":
        assert ("DLR needs 3 classes" in words) == (classes == 2)
    if name in ("apgd-t", "fast"):
        assert ("DLR needs 3 classes" if classes == 2 else "4 classes needed") in words


def test_square_breaks_what_is_easy() -> None:
    model, x = network(), images(4)
    y = predictions(model, x)
    found = ATTACKS["square"]()(model, x, y, Scene(threat=ThreatModel("linf", "1/2"), num_classes=3))
    assert (predictions(model, found) != y).all()


def test_the_fast_protocol_says_that_it_is_not_autoattack() -> None:
    assert "not AutoAttack" in ATTACKS["fast"]().describe(scene_of("fast", 10))


def test_the_fast_protocol_leaves_no_image_that_a_linear_model_lets_break() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    x, eps = images(24) * 0.8 + 0.1, 0.05
    y = predictions(model, x)
    weight, logits = model[1].weight.detach(), model(x).detach()
    reach = eps * (weight[None] - weight[y][:, None]).abs().sum(2)  # no pixel meets 0 or 1
    gain = (logits - logits.gather(1, y[:, None]) + reach).masked_fill(F.one_hot(y, 4).bool(), -torch.inf)
    exact = (gain > 1e-5).any(1)
    stands = predictions(model, fast(model, x, y, threat=ThreatModel("linf", eps), num_classes=4)) == y
    assert 0 < exact.sum() < 24
    assert torch.equal(~stands, exact)


def test_ifgsm_starts_at_the_image_and_steps_a_quarter_of_eps() -> None:
    model, x, threat = network().double(), images().double(), ThreatModel("linf", 0.1)
    y = predictions(model, x)
    point = x
    for _ in range(3):
        leaf = point.clone().requires_grad_()
        gradient = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)[0]
        point = (x + (point + 0.025 * gradient.sign() - x).clamp(-0.1, 0.1)).clamp(0, 1)
    assert torch.allclose(ifgsm(model, x, y, threat=threat, steps=3), point, atol=1e-12)


def test_cw_comes_near_the_exact_distance_of_a_linear_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    x = images(6).double() * 0.6 + 0.2
    y = predictions(model, x)
    found = carlini_wagner(model, x, y, steps=150, searches=6, constant=0.1)
    weight, logits = model[1].weight.detach(), model(x).detach()
    gaps = logits.gather(1, y[:, None]) - logits
    normals = (weight[y][:, None] - weight[None]).norm(dim=2)
    exact = (gaps / normals.clamp_min(1e-12)).masked_fill(F.one_hot(y, 3).bool(), torch.inf).amin(1)
    assert (predictions(model, found) != y).all()
    distance = ThreatModel("l2", 1).distance(found, x)
    assert (distance >= exact - 1e-9).all(), "no image can be closer than the boundary"
    assert (distance <= 1.1 * exact + 1e-3).all()


def test_the_constant_of_cw_grows_until_it_succeeds_and_is_then_halved() -> None:
    c, low, high = torch.tensor([1.0, 1.0]), torch.zeros(2), torch.full((2,), torch.inf)
    c, low, high = next_constants(c, low, high, torch.tensor([False, True]))
    assert c.tolist() == [10.0, 0.5]
    c, low, high = next_constants(c, low, high, torch.tensor([True, False]))
    assert c.tolist() == [5.5, 0.75]
    assert (low.tolist(), high.tolist()) == ([1.0, 0.5], [10.0, 1.0])


def test_what_an_attack_is_not_made_for_is_refused() -> None:
    model, x, y = network(), images(), torch.zeros(6, dtype=torch.int64)
    linf = Scene(threat=ThreatModel("linf", "1/2"), num_classes=3)
    with pytest.raises(DataError, match=r"C&W measures l2 distances, and the threat is linf 1/2"):
        ATTACKS["cw"]()(model, x, y, linf)
    for name in ("fab", "fab-t"):
        with pytest.raises(ModelError, match="FAB needs the same gradient each time"):
            ATTACKS[name]()(Averaged(model), x, y, linf)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("apgd-ce", {"steps": 0}, "steps is 0"),
        ("apgd-t", {"targets": 0}, "targets is 0"),
        ("apgd-dlr", {"restarts": -1}, "restarts is -1"),
        ("ifgsm", {"steps": 0}, "steps is 0"),
        ("ifgsm", {"step_size": 0.0}, "step_size is 0"),
        ("cw", {"searches": 0}, "searches is 0"),
        ("cw", {"lr": 0.0}, "lr is 0"),
        ("cw", {"constant": -1.0}, "constant is -1"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ATTACKS[name](**options)


class Noisy(nn.Module):
    """The small network with noise that it says it has."""

    def __init__(self) -> None:
        super().__init__()
        first, norm, tanh, flat, last = network()
        self.layers = nn.Sequential(first, norm, BlockNoise(0.3), tanh, flat, last)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["ifgsm", "apgd-ce", "apgd-t", "fast"])
def test_stochastic_models_are_attacked_through_their_averages(name: str) -> None:
    judge = Averaged(Noisy().eval(), eot=2, draws=2, seed=4)
    x = images()
    y = predictions(judge, x)
    scene = Scene(threat=ThreatModel("linf", "1/2"), num_classes=3, stochastic=True)
    found = made(name)(judge, x, y, scene)
    assert (predictions(judge, found) != y).any()
    assert torch.equal(found, made(name)(judge, x, y, scene)), "all noise comes from the seed"
