"""The hybrid loss against its equation, and its two ends."""

from __future__ import annotations

import math

import pytest
import torch
from objective_table import THREAT, batch, dice, gradients, network, same
from torch.nn import functional as F

from hedgerow.objectives import Natural, PGDAdversarialTraining
from hedgerow.objectives.hybrid import Hybrid
from hedgerow.threat import ThreatModel


@pytest.mark.parametrize("beta", [0.25, 0.5])
def test_it_is_the_equation_with_seven_steps_of_a_hundredth(beta: float) -> None:
    model, slow = network().double(), network().double()
    x, y = batch()
    x = x.double()
    loss, scalars = Hybrid(THREAT, beta=beta)(model, x, y, dice(3))

    slow.eval()
    point = (x + 0.1 * torch.empty_like(x).uniform_(-1, 1, generator=dice(3))).clamp(0, 1)
    for _ in range(7):
        point = point.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(slow(point), y, reduction="sum"), point)
        point = torch.min(torch.max(point + 0.01 * gradient.sign(), x - 0.1), x + 0.1).clamp(0, 1)
    slow.train()
    clean = slow(x)
    natural, robust = F.cross_entropy(clean, y), F.cross_entropy(slow(point.detach()), y)
    expected = beta * natural + (1 - beta) * robust
    assert loss.item() == pytest.approx(expected.item(), abs=1e-10)
    assert same(gradients(model, loss), gradients(slow, expected), atol=1e-10)
    assert scalars["natural"] == pytest.approx(natural.item())
    assert scalars["robust"] == pytest.approx(robust.item())
    assert scalars["train_accuracy"] == (clean.argmax(1) == y).float().mean()
    assert torch.allclose(model[1].running_mean, slow[1].running_mean, atol=1e-12)
    assert model[1].num_batches_tracked == 2


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_its_ends_are_adversarial_and_natural_training_bit_for_bit(beta: float) -> None:
    model, other = network(), network()
    plain = Natural() if beta else PGDAdversarialTraining(THREAT, steps=7, step_size=0.01)
    loss, scalars = Hybrid(THREAT, beta=beta)(model, *batch(), dice())
    expected, known = plain(other, *batch(), dice())
    assert torch.equal(loss, expected)
    assert same(gradients(model, loss), gradients(other, expected))
    assert scalars["train_accuracy"] == known["train_accuracy"]
    assert set(scalars) == {*known, "natural" if beta else "robust"}
    assert ("attacked_accuracy" in scalars) == (beta == 0)
    assert model[1].num_batches_tracked == 1


def test_the_step_is_the_published_one_at_every_radius_unless_given() -> None:
    assert Hybrid(ThreatModel("linf", "8/255")).attack.step_size == 0.01
    assert Hybrid(ThreatModel("linf", "1/10")).attack.step_size == 0.01
    assert Hybrid(THREAT, step_size="2/255").attack.step_size == 2 / 255


@pytest.mark.parametrize("beta", [-0.1, 1.5, math.nan])
def test_a_weight_outside_its_range_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="the weight of the clean loss"):
        Hybrid(THREAT, beta=beta)
