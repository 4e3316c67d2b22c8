"""The fused bound of the cross-entropy: against closed forms, samples, and intervals; what it costs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from objective_table import batch, gradients, network, robust_at
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.bounds import Network, ball, interval_least, interval_walk
from hedgerow.objectives import IBP, CrownIBP, fusion
from hedgerow.objectives.certified import Bounding
from hedgerow.objectives.fusion import fused_loss
from hedgerow.threat import ThreatModel

THREAT = ThreatModel("linf", "1/50")


def bounded(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the fused bound and that of intervals, each `[N]`."""
    network_: Network = Bounding("running").forward(model, x)[1]
    walk = interval_walk(network_, ball(x, ThreatModel("linf", eps)).to(x.dtype))
    unit = torch.eye(3, dtype=x.dtype)
    rows = unit[y].unsqueeze(1) - unit
    least = interval_least(walk, rows)
    return fused_loss(walk, rows, least), F.cross_entropy(-least, y, reduction="none")


def slow_chords(weight: Tensor, bias: Tensor, x: Tensor, y: int, eps: float) -> float:
    """The bound of one image under one linear layer, by the numbers of paper: chords, then the best corner."""
    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    slopes, level = [], 0.0
    for j in range(len(weight)):
        row, shift = weight[j] - weight[y], float(bias[j] - bias[y])
        most = sum(float(w * (h if w > 0 else s)) for w, s, h in zip(row, low, high, strict=True)) + shift
        least = sum(float(w * (s if w > 0 else h)) for w, s, h in zip(row, low, high, strict=True)) + shift
        e = torch.tensor([least, most], dtype=torch.float64).exp()
        slope = float((e[1] - e[0]) / (most - least)) if most > least else float(e[1])
        slopes.append(slope)
        level += float(e[1]) - slope * most + slope * shift
    total = sum(s * (weight[j] - weight[y]) for j, s in enumerate(slopes))
    best = sum(float(w * (h if w > 0 else s)) for w, s, h in zip(total, low, high, strict=True))
    return float(torch.tensor(best + level, dtype=torch.float64).log())


def test_under_one_linear_layer_it_is_the_slow_sum_of_chords() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).double()
    x, y = torch.rand(6, 1, 3, 3, dtype=torch.float64), torch.arange(6) % 3
    found, intervals = bounded(model, x, y, 0.3)
    fc: Any = model[1]
    weight, bias = fc.weight.detach(), fc.bias.detach()
    expected = [slow_chords(weight, bias, image.flatten(), int(label), 0.3) for image, label in zip(x, y)]  # noqa: B905
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert (found < intervals - 1e-3).any(), "margins share their pixels, which intervals do not know"


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("eps", [0.0, 0.02, 0.5])
def test_no_image_of_the_ball_has_a_larger_loss_and_intervals_have_no_smaller_bound(
    scale: float, eps: float
) -> None:
    model = network().double().eval()
    with torch.no_grad():
        model[4].weight.mul_(scale)
    x, y = batch()
    x = x.double()
    found, intervals = bounded(model, x, y, eps)
    assert (found <= intervals + 1e-9).all()
    dice = torch.Generator().manual_seed(0)
    for number in range(200):
        noise = torch.rand(x.shape, generator=dice, dtype=x.dtype) * 2 - 1
        moved = (x + eps * (noise.sign() if number % 2 else noise)).clamp(0, 1)
        assert (F.cross_entropy(model(moved), y, reduction="none") <= found + 1e-9).all()
    if not eps:
        assert torch.allclose(found, F.cross_entropy(model(x), y, reduction="none"), atol=1e-9)


def test_logits_far_apart_give_finite_losses_and_gradients() -> None:
    model = network()
    with torch.no_grad():
        model[4].weight.mul_(1e4)
    loss, scalars = CrownIBP(THREAT, beta=1.0, fusion=True)(model, *batch())
    assert loss.isfinite()
    assert scalars["robust"] > 100
    assert all(gradient.isfinite().all() for gradient in gradients(model, loss))


def test_it_goes_from_the_fused_bound_to_intervals_and_the_losses_are_blended() -> None:
    half = {"warmup": 0.0, "ramp": 1.0, "ramp_shape": "linear"}
    assert robust_at(CrownIBP(THREAT, fusion=True), 1.0) == pytest.approx(robust_at(IBP(THREAT), 1.0), rel=1e-6)
    fused, mixed = (robust_at(CrownIBP(THREAT, beta=b, fusion=True, **half), 0.5) for b in (1.0, 0.0))
    intervals = robust_at(IBP(THREAT, **half), 0.5)
    assert fused < intervals - 1e-4
    assert mixed == pytest.approx(0.5 * fused + 0.5 * intervals, rel=1e-5)


def test_one_function_is_carried_back_and_none_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    least = fusion.linear_least
    monkeypatch.setattr(
        fusion, "linear_least", lambda walk, rows: asked.append(rows.shape[1]) or least(walk, rows)
    )
    objective = CrownIBP(THREAT, fusion=True, warmup=0.0, ramp=0.5)
    for done in (0.25, 0.5):
        objective.progress(done)
        objective(network(), *batch())
    assert asked == [1]


def test_the_gradient_is_that_of_small_differences() -> None:
    """Through the chords too, not only through the linear function."""
    model = network().double().eval()
    x, y = batch(4)
    x = x.double()
    found, _ = bounded(model, x, y, 0.05)
    (slopes,) = torch.autograd.grad(found.mean(), [model[4].weight])
    for i, j in itertools.product(range(3), (0, 7)):
        ends = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                model[4].weight[i, j] += step
            ends.append(bounded(model, x, y, 0.05)[0].mean().item())
            with torch.no_grad():
                model[4].weight[i, j] -= step
        assert slopes[i, j].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-6)
