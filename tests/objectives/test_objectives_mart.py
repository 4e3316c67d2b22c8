"""MART against the paper's formula through probabilities, in double precision, and where probabilities end."""

from __future__ import annotations

import math

import pytest
import torch
from objective_table import THREAT, batch, dice, gradients, network, same
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.objectives import Mart
from hedgerow.objectives.mart import boosted_cross_entropy
from hedgerow.threat import ThreatModel

EPS = 0.1


def mart_by_hand(model: nn.Module, x: Tensor, y: Tensor, *, beta: float, seed: int) -> tuple[Tensor, Tensor]:
    """One example after the other, through probabilities; graphs to everything."""
    model.eval()
    noise = torch.empty_like(x).normal_(generator=dice(seed))
    point = (x + (0.001 * noise).clamp(-EPS, EPS)).clamp(0, 1)
    for _ in range(10):
        point = point.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)
        point = torch.min(torch.max(point + EPS / 4 * gradient.sign(), x - EPS), x + EPS).clamp(0, 1)
    model.train()
    clean, attacked = model(x).softmax(1), model(point.detach()).softmax(1)
    total = torch.zeros((), dtype=x.dtype)
    for p, q, label in zip(clean, attacked, y.tolist(), strict=True):
        rival = max(q[k] for k in range(len(q)) if k != label)
        total = total - q[label].log() - (1 - rival).log()
        total = total + beta * (p * (p.log() - q.log())).sum() * (1 - p[label])
    return total / len(x), (attacked.argmax(1) == y).float().mean()


@pytest.mark.parametrize("beta", [0.0, 1.0, 5.0])
def test_it_is_the_formula_of_the_paper(beta: float) -> None:
    mine, slow = network().double(), network().double()
    x, y = batch()
    x = x.double()
    loss, scalars = Mart(ThreatModel("linf", EPS), beta=beta)(mine, x, y, dice(5))
    expected, accuracy = mart_by_hand(slow, x, y, beta=beta, seed=5)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(expected.item(), abs=1e-10, rel=0)
    assert same(gradients(mine, loss), gradients(slow, expected), atol=1e-10)
    assert scalars["train_accuracy"] == scalars["attacked_accuracy"] == accuracy
    assert scalars["boosted"] + beta * scalars.get("robust", 0.0) == pytest.approx(loss.item())
    assert ("robust" in scalars) == (beta > 0)


def test_the_published_weight_is_the_default() -> None:
    model, other = network(), network()
    loss, _ = Mart(THREAT, steps=2)(model, *batch(), dice())
    assert torch.equal(loss, Mart(THREAT, steps=2, beta=5)(other, *batch(), dice())[0])
    assert Mart(ThreatModel("linf", "8/255")).step_size == 2 / 255


def test_batch_norm_sees_the_clean_batch_first_and_nothing_else() -> None:
    model, other = network(), network()
    objective = Mart(THREAT, steps=2)
    x, y = batch()
    adversarial = objective.craft(other, x, y, dice())
    other(x)
    other(adversarial)
    objective(model, x, y, dice())
    assert torch.equal(model[1].running_mean, other[1].running_mean)


def test_without_the_second_term_nothing_runs_on_clean_images() -> None:
    model, other = network(), network()
    objective = Mart(THREAT, steps=2, beta=0)
    other(objective.craft(other, *batch(), dice()))
    objective(model, *batch(), dice())
    assert torch.equal(model[1].running_mean, other[1].running_mean)


def test_with_two_classes_the_boosted_loss_is_twice_the_cross_entropy() -> None:
    logits = torch.randn(9, 2, generator=dice(), dtype=torch.float64)
    y = torch.arange(9) % 2
    found = boosted_cross_entropy(logits.log_softmax(1), y)
    assert torch.allclose(found, 2 * F.cross_entropy(logits, y, reduction="none"))


def test_the_rival_is_the_likeliest_of_the_wrong_classes() -> None:
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3]], dtype=torch.float64)
    found = boosted_cross_entropy(probabilities.log(), torch.tensor([0, 0]))
    assert found.tolist() == pytest.approx([-math.log(0.5 * 0.7), -math.log(0.2 * 0.5)])


@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
def test_saturated_logits_give_finite_and_exact_values(size: float) -> None:
    logits = torch.tensor([[size, 0.0, -size], [-size, size, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    found = boosted_cross_entropy(logits.log_softmax(1), torch.tensor([0, 0, 0]))
    # Sure and right: 0. Sure and wrong: -log p_y = 2 size, and all but the rival hold exp(-size).
    assert found.tolist() == pytest.approx([0.0, 3 * size, math.log(3) + math.log(1.5)], rel=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert gradient.isfinite().all()
    assert gradient[1].tolist() == pytest.approx([-1.0, 2.0, -1.0])


@pytest.mark.parametrize("scale", [1e4, 1e6])
def test_it_survives_a_network_with_huge_logits(scale: float) -> None:
    class Loud(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * scale

    model = Loud(*network())
    loss, _ = Mart(THREAT, steps=3)(model, *batch(), dice())
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(model, loss))


@pytest.mark.parametrize("beta", [-1.0, math.inf, math.nan])
def test_a_weight_that_is_none_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match=r"beta is .* must be 0 or more"):
        Mart(THREAT, beta=beta)
