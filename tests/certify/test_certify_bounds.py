"""Certificates from bounds: what is proved is so, at which radius, and what is refused."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import pytest
import torch
from certify_cases import HalfSpace, images, near
from torch import Tensor, nn

from hedgerow.attacks import pgd
from hedgerow.bounds import METHODS, margin_bounds, verified
from hedgerow.certify import CERTIFIERS, Bounds, certify, gather
from hedgerow.errors import CertificationError, DataError, ModelError
from hedgerow.models.en_resnet import BlockNoise
from hedgerow.threat import ThreatModel
from hedgerow.tracing import trace

every_method = pytest.mark.parametrize("method", METHODS)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    first = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    return nn.Sequential(first, nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


class Plane(nn.Sequential):
    """A half space of which the network is a linear layer."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, 2))
        self.known = [HalfSpace()]
        with torch.no_grad():
            self[1].weight.copy_(torch.stack([torch.zeros(16), self.known[0].w]))
            self[1].bias.copy_(torch.stack([torch.zeros(()), self.known[0].b]))


def made(method: str, eps: str = "1/50", norm: str = "linf", **more: Any) -> Any:
    return CERTIFIERS[method](None, eps=eps, norm=norm, **more)


@every_method
def test_of_a_half_space_exactly_the_images_farther_than_eps_are_proved(method: str) -> None:
    model = Plane()
    # Small, so that no ball is cut by the range of the pixels.
    x = near(model.known[0], [-0.3, -0.11, -0.09, -0.01, 0.01, 0.09, 0.11, 0.3])
    found = certify(model, x, made(method, "1/10", "l2"))
    for proof, distance in zip(found, model.known[0].distance(x), strict=True):
        assert proof.answer == int(distance > 0)
        assert (proof.prediction, proof.radius) == ((proof.answer, 0.1) if abs(distance) > 0.1 else (None, 0.0))


@every_method
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_is_proved_no_attack_breaks(method: str, norm: Any) -> None:
    model, x = network(), images(12)[:, :, :4, :4]
    found = certify(model, x, made(method, "1/20", norm))
    proved = torch.tensor([proof.prediction is not None for proof in found])
    answers = torch.tensor([proof.answer for proof in found])
    assert proved.any()
    threat = ThreatModel(norm, "1/20")
    attacked = pgd(model, x, answers, threat=threat, steps=30, restarts=3, seed=0)
    with torch.no_grad():
        assert torch.equal(model(x).argmax(1), answers)
        assert (model(attacked).argmax(1) == answers)[proved].all()
        graph = trace(model, x)
        bounds = margin_bounds(graph, model, x, answers, threat, method, dtype=torch.float64)  # type: ignore[arg-type]
        assert torch.equal(verified(bounds, answers), proved)


def test_later_methods_prove_no_less() -> None:
    model, x = network(1), images(20)
    found = [gather(model, x, made(method, "1/3")) for method in METHODS]
    margins = [torch.tensor([each["margin"] for each in one.values()], dtype=torch.float64) for one in found]
    # Groups differ in size, and sums in their last digits; no margin here is that close to 0.
    assert all((m.abs() > 1e-3).all() for m in margins), [m.abs().min() for m in margins]
    for (name, before), (_, after) in itertools.pairwise(zip(METHODS, margins, strict=True)):
        assert (after >= before - 1e-9).all(), (name, (after - before).min())
    proved = [sum(each["proved"] for each in one.values()) for one in found]
    assert proved == sorted(proved)
    assert proved[0] < proved[-1], proved


def test_without_a_radius_every_image_is_proved() -> None:
    proofs = certify(network(), images(6), made("ibp", "0"))
    assert all(proof.prediction == proof.answer and proof.radius == 0 for proof in proofs)


def test_settings_tell_what_the_evidence_depends_on() -> None:
    one = made("crown", "8/255")
    assert one.settings() == {"norm": "linf", "eps": "8/255", "precision": "float64"}
    assert made("alpha-crown", "8/255", steps=7).settings()["steps"] == 7
    assert one.label == "linf-0.03137"
    assert one.radii() == [0.0, 8 / 255]
    assert made("ibp", "0").radii() == [0.0]
    assert "crown bounds (1811.00866), linf 8/255" in one.describe()
    assert CERTIFIERS["ibp"](ThreatModel("l2", "1/2")).threat == ThreatModel("l2", "1/2"), (
        "the recipe's, unless given"
    )
    assert CERTIFIERS["ibp"](ThreatModel("l2", "1/2"), norm="linf").threat == ThreatModel("linf", "1/2")
    for method in METHODS:
        assert CERTIFIERS.summary(method)
        assert "eps" in inspect.signature(CERTIFIERS[method]).parameters


def test_single_precision_proves_no_more_than_double() -> None:
    model, x = network(2), images(40)
    both = [certify(model, x, made("crown-ibp", "1/25", precision=p)) for p in ("float32", "float64")]
    assert all(b.prediction is not None for a, b in zip(*both, strict=True) if a.prediction is not None)


def spoilt() -> nn.Module:
    model = network()
    with torch.no_grad():
        model[0][0].weight[1, 0, 2, 2] = torch.nan  # type: ignore[index]
    return model


class Broken(Plane):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 0  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.GELU(), nn.Linear(16, 3)), "gelu in '1': no bounds are known for it"),
        (nn.Sequential(BlockNoise(), nn.Flatten(), nn.Linear(16, 3)), "is stochastic"),
        (Broken(), "returned NaN or infinity for image 0"),
        (spoilt(), "0.0.weight holds NaN or infinity"),
    ],
)
def test_networks_that_bounds_do_not_cover_are_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        certify(model, images(2), made("ibp"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": "-1/10"}, "eps -1/10 is negative"),
        ({"eps": "2"}, "eps 2 is above 1 and pixels run from 0 to 1; did you mean 2/255"),
        ({"eps": "much"}, "'much' is not a number"),
        ({"norm": "l1"}, "norm 'l1' is not known; allowed: linf, l2"),
        ({"precision": "float16"}, "precision 'float16' is not known; allowed: float64, float32"),
        ({"steps": 0}, "steps is 0; it must be a whole number"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CertificationError, match=message):
        made("alpha-crown", **options)


def test_images_out_of_range_are_refused() -> None:
    with pytest.raises(DataError, match="pixels run from"):
        certify(network(), images(2) + 1, made("ibp"))


def test_the_class_has_a_name_of_its_own() -> None:
    assert isinstance(made("ibp"), Bounds)
