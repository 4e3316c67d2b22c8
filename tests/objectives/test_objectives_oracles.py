"""PGD adversarial training and TRADES against slow loops written from the papers, in double precision."""

from __future__ import annotations

import math

import pytest
import torch
from objective_table import THREAT, batch, dice, gradients, network, same
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.objectives import PGDAdversarialTraining, Trades
from hedgerow.objectives.trades import kl_from_clean
from hedgerow.threat import ThreatModel

EPS = 0.1


@pytest.fixture
def model() -> nn.Module:
    return network().double()


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    x, y = batch()
    return x.double(), y


class Forwards:
    """Counts the calls of a model."""

    def __init__(self, model: nn.Module) -> None:
        self.count = 0
        model.register_forward_hook(self._add)

    def _add(self, *_: object) -> None:
        self.count += 1


def kl_by_hand(clean: Tensor, other: Tensor) -> Tensor:
    """The sum over examples of KL(softmax(clean) || softmax(other)), through probabilities."""
    p, q = clean.softmax(1), other.softmax(1)
    return (p * (p.log() - q.log())).sum()


def trades_by_hand(
    model: nn.Module, x: Tensor, y: Tensor, seed: int, *, beta: float, steps: int = 10
) -> tuple[Tensor, Tensor]:
    """TRADES as first published: clean logits anew at every attack step, graphs to all parameters."""
    model.eval()
    noise = torch.empty_like(x).normal_(generator=dice(seed))
    point = (x + (0.001 * noise).clamp(-EPS, EPS)).clamp(0, 1)
    for _ in range(steps):
        point = point.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(kl_by_hand(model(x), model(point)), point)
        point = point + EPS / 4 * gradient.sign()
        point = torch.min(torch.max(point, x - EPS), x + EPS).clamp(0, 1)
    model.train()
    natural = F.cross_entropy(model(x), y)
    robust = kl_by_hand(model(x), model(point.detach())) / len(x)
    accuracy = (model(x).argmax(1) == y).double().mean()
    return natural + beta * robust, accuracy


@pytest.mark.parametrize("beta", [1.0, 6.0])
def test_trades_equals_the_slow_form_of_the_paper(
    model: nn.Module, data: tuple[Tensor, Tensor], beta: float
) -> None:
    slow = network().double()
    forwards = Forwards(slow)
    expected, accuracy = trades_by_hand(slow, *data, seed=2, beta=beta)
    assert forwards.count == 24
    loss, scalars = Trades(ThreatModel("linf", EPS), beta=beta)(model, *data, dice(2))
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(expected.item(), abs=1e-10, rel=0)
    assert same(gradients(model, loss), gradients(slow, expected), atol=1e-10)
    assert scalars["train_accuracy"].item() == pytest.approx(accuracy.item())
    assert scalars["natural"] + beta * scalars["robust"] == pytest.approx(loss.item())
    assert scalars["robust"] > 1e-4, "an attack that finds nothing would agree with anything"


@pytest.mark.parametrize("steps", [1, 10])
def test_trades_takes_three_forwards_more_than_attack_steps(steps: int) -> None:
    model = network()
    forwards = Forwards(model)
    Trades(THREAT, steps=steps)(model, *batch(), dice())
    assert forwards.count == steps + 3


@pytest.mark.parametrize("steps", [1, 10])
def test_pgd_training_takes_one_forward_more_than_attack_steps(steps: int) -> None:
    model = network()
    forwards = Forwards(model)
    PGDAdversarialTraining(THREAT, steps=steps)(model, *batch(), dice())
    assert forwards.count == steps + 1


def test_trades_with_beta_zero_is_cross_entropy_exactly() -> None:
    model, other = network(), network()
    forwards = Forwards(model)
    x, y = batch()
    loss, scalars = Trades(THREAT, beta=0)(model, x, y, dice())
    expected = F.cross_entropy(other(x), y)
    assert torch.equal(loss, expected)
    assert same(gradients(model, loss), gradients(other, expected))
    assert forwards.count == 1, "nothing is crafted"
    assert torch.equal(model[1].running_mean, other[1].running_mean)
    assert "robust" not in scalars


def test_trades_refuses_a_negative_weight() -> None:
    with pytest.raises(ValueError, match="beta is -1"):
        Trades(THREAT, beta=-1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_training_equals_a_hand_written_loop(data: tuple[Tensor, Tensor], norm: str) -> None:
    x, y = data
    mine, other = network().double(), network().double()
    if norm == "linf":
        start = x + EPS * torch.empty_like(x).uniform_(-1, 1, generator=dice(9))
    else:
        die = dice(9)
        direction = torch.empty_like(x).normal_(generator=die)
        radius = torch.empty(len(x), dtype=x.dtype).uniform_(generator=die) ** (1 / 64)
        start = x + EPS * direction * (radius / direction.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    point = start.clamp(0, 1)
    other.eval()
    for _ in range(5):
        point = point.detach().requires_grad_()
        F.cross_entropy(other(point), y, reduction="sum").backward()
        with torch.no_grad():
            if norm == "linf":
                point = x + (point + 0.02 * point.grad.sign() - x).clamp(-EPS, EPS)
            else:
                length = point.grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
                delta = point + 0.02 * point.grad / length - x
                point = x + delta / (delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1) / EPS).clamp(min=1)
            point = point.clamp(0, 1)
    other.train()
    other.zero_grad()
    logits = other(point)
    expected = F.cross_entropy(logits, y)
    objective = PGDAdversarialTraining(ThreatModel(norm, EPS), steps=5, step_size="0.02")  # type: ignore[arg-type]
    loss, scalars = objective(mine, x, y, dice(9))
    assert loss.item() == pytest.approx(expected.item(), abs=1e-10, rel=0)
    assert same(gradients(mine, loss), gradients(other, expected), atol=1e-10)
    assert torch.allclose(mine[1].running_mean, other[1].running_mean, atol=1e-12, rtol=0)
    assert torch.allclose(mine[1].running_var, other[1].running_var, atol=1e-12, rtol=0)
    assert scalars["train_accuracy"] == (logits.argmax(1) == y).float().mean()


@pytest.mark.parametrize("kind", [PGDAdversarialTraining, Trades])
def test_the_default_step_is_a_quarter_of_the_radius(kind: type) -> None:
    assert kind(ThreatModel("linf", "8/255")).step_size == 2 / 255
    assert kind(ThreatModel("linf", "8/255"), step_size="1/255").step_size == 1 / 255


def test_the_attack_makes_the_loss_larger(model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    model.eval()
    with torch.no_grad():
        clean = F.cross_entropy(model(x), y).item()
        at = PGDAdversarialTraining(THREAT).craft(model, x, y, dice())
        assert F.cross_entropy(model(at), y).item() > clean
        kl = [kl_by_hand(model(x), model(Trades(THREAT, steps=s).craft(model, x, dice()))) for s in (0, 1, 10)]
    assert kl[0] < kl[1] < kl[2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_kl_of_huge_logits_is_finite_and_right(dtype: torch.dtype) -> None:
    clean = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, 0.0]], dtype=dtype)
    other = torch.tensor([[-1e4, 1e4, 0.0], [1e4, -1e4, -1e4], [1e4, -1e4, 0.0]], dtype=dtype).requires_grad_()
    size = clean[0, 0].item()
    wide = clean.double().log_softmax(1).to(torch.promote_types(dtype, torch.float32))
    kl = kl_from_clean(wide, other)
    (gradient,) = torch.autograd.grad(kl.sum(), other)
    expected = torch.tensor([2 * size, 2 * size - math.log(2), size - math.log(3)], dtype=kl.dtype)
    assert kl.dtype == wide.dtype
    assert torch.allclose(kl, expected, rtol=1e-5)
    assert gradient.isfinite().all()


def test_kl_is_zero_for_equal_logits_and_the_formula_elsewhere() -> None:
    logits, other = torch.randn(2, 7, 5, generator=dice(), dtype=torch.float64)
    assert torch.allclose(kl_from_clean(logits.log_softmax(1), logits), torch.zeros(7, dtype=torch.float64))
    for one, two, found in zip(logits, other, kl_from_clean(logits.log_softmax(1), other), strict=True):
        p = [math.exp(v) / sum(map(math.exp, one.tolist())) for v in one.tolist()]
        q = [math.exp(v) / sum(map(math.exp, two.tolist())) for v in two.tolist()]
        assert found.item() == pytest.approx(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))


@pytest.mark.parametrize("scale", [1e4, 1e6])
def test_trades_survives_a_network_with_huge_logits(scale: float) -> None:
    class Loud(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * scale

    model = Loud(*network())
    loss, _ = Trades(THREAT, steps=3)(model, *batch(), dice())
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(model, loss))
