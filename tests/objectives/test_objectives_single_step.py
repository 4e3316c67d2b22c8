"""Free and Fast adversarial training against slow loops written from the papers, in double precision."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from objective_table import THREAT, batch, dice, gradients, network, same
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.objectives import FastAdversarialTraining, FreeAdversarialTraining, PGDAdversarialTraining
from hedgerow.threat import ThreatModel

EPS = 0.1


def free_by_hand(model: nn.Module, batches: list[tuple[Tensor, Tensor]], replays: int, norm: str) -> Tensor:
    """Algorithm 1: plain gradient descent on the weights, ascent on one perturbation; returns it."""
    delta = torch.zeros_like(batches[0][0])
    for x, y in batches:
        for _ in range(replays):
            moving = delta[: len(x)].clone().requires_grad_()
            model.zero_grad()
            F.cross_entropy(model((x + moving).clamp(0, 1)), y).backward()
            gradient = moving.grad
            if norm == "linf":
                delta[: len(x)] = (delta[: len(x)] + EPS * gradient.sign()).clamp(-EPS, EPS)
            else:
                for i in range(len(x)):
                    length = gradient[i].norm()
                    new = delta[i] + EPS * (gradient[i] / length if length > 0 else 0 * gradient[i])
                    delta[i] = new if new.norm() <= EPS else new * EPS / new.norm()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.sub_(0.3 * parameter.grad)
    return delta


def two_batches() -> list[tuple[Tensor, Tensor]]:
    x, y = batch(20)
    return [(x[:12].double(), y[:12]), (x[12:].double(), y[12:])]


@pytest.mark.parametrize("replays", [1, 3])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_free_training_equals_the_loop_of_the_paper(norm: str, replays: int) -> None:
    mine, slow = network().double(), network().double()
    objective = FreeAdversarialTraining(ThreatModel(norm, EPS), replays=replays)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(mine.parameters(), lr=0.3)
    for x, y in two_batches():
        for _ in range(objective.replays):
            optimizer.zero_grad()
            objective(mine, x, y)[0].backward()
            optimizer.step()
    expected = free_by_hand(slow, two_batches(), replays, norm)
    assert objective.delta is not None
    assert expected.abs().max() > 0
    assert torch.allclose(objective.delta, expected, atol=1e-12)
    assert same(list(mine.parameters()), list(slow.parameters()), atol=1e-10)
    assert same(list(mine.buffers()), list(slow.buffers()), atol=1e-10)


def test_one_forward_and_one_backward_serve_weights_and_images() -> None:
    model, x, y = network(), *batch()
    calls = []
    model.register_forward_hook(lambda *_: calls.append("forward"))
    objective = FreeAdversarialTraining(THREAT)
    loss, _ = objective(model, x, y)
    assert objective.delta is not None
    assert not objective.delta.any(), "only the backward moves it"
    loss.backward()
    assert calls == ["forward"]
    assert objective.delta.abs().max() == pytest.approx(0.1)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_larger_batch_than_any_before_brings_new_places_that_start_at_zero() -> None:
    model, (x, y) = network(), batch()
    objective = FreeAdversarialTraining(THREAT)
    objective(model, x[:4], y[:4])[0].backward()
    assert objective.delta is not None
    first = objective.delta.clone()
    objective(model, x, y)
    assert torch.equal(objective.delta[:4], first)
    assert objective.delta.shape == x.shape
    assert not objective.delta[4:].any()


def test_images_of_another_shape_start_anew() -> None:
    convolutions = nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x, y = batch()
    objective = FreeAdversarialTraining(THREAT)
    objective(convolutions, x, y)[0].backward()
    objective(convolutions, x[..., :6], y)
    assert objective.delta is not None
    assert objective.delta.shape == (12, 1, 8, 6)
    assert not objective.delta.any()


def test_nothing_moves_without_a_backward_that_reaches_the_images() -> None:
    model, objective = network(), FreeAdversarialTraining(THREAT)
    with torch.no_grad():
        objective(model, *batch())
    gradients(model, objective(model, *batch())[0])
    assert objective.delta is not None
    assert not objective.delta.any()


def test_its_state_comes_back() -> None:
    first, second = FreeAdversarialTraining(THREAT), FreeAdversarialTraining(THREAT)
    assert first.state_dict() == {"delta": None}
    first(network(), *batch())[0].backward()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(network(), *batch())[0], second(network(), *batch())[0])
    assert not torch.equal(first(network(), *batch())[0], FreeAdversarialTraining(THREAT)(network(), *batch())[0])


def test_a_finished_step_leaves_no_tensors_behind() -> None:
    seen = []

    class Watched(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(weakref.ref(x))
            return super().forward(x)

    gc.collect()
    gc.disable()
    try:
        objective = FreeAdversarialTraining(THREAT)
        objective(Watched(*network()), *batch())[0].backward()
        assert seen[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_fast_training_equals_the_loop_of_the_paper(norm: str, mode: str) -> None:
    mine, slow = network().double(), network().double()
    x, y = batch()
    x = x.double()
    threat = ThreatModel(norm, EPS)  # type: ignore[arg-type]
    loss, scalars = FastAdversarialTraining(threat, craft_mode=mode)(mine, x, y, dice(3))  # type: ignore[arg-type]

    start = threat.random_start(x, dice(3))
    delta = (start - x).requires_grad_()
    slow.train(mode == "train")
    before = [buffer.clone() for buffer in slow.buffers()]
    (gradient,) = torch.autograd.grad(F.cross_entropy(slow(x + delta), y), delta)
    for buffer, value in zip(slow.buffers(), before, strict=True):
        buffer.copy_(value)
    if norm == "linf":
        moved = (delta + 1.25 * EPS * gradient.sign()).clamp(-EPS, EPS)
    else:
        lengths = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        moved = delta + 1.25 * EPS * gradient / lengths
        moved = moved / (moved.flatten(1).norm(dim=1).view(-1, 1, 1, 1) / EPS).clamp(min=1)
    slow.train()
    logits = slow((x + moved).clamp(0, 1).detach())
    expected = F.cross_entropy(logits, y)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-10, rel=0)
    assert same(gradients(mine, loss), gradients(slow, expected), atol=1e-10)
    assert scalars["attacked_accuracy"] == (logits.argmax(1) == y).float().mean()


def test_fast_training_is_one_long_step_of_pgd_training_bit_for_bit() -> None:
    pgd = PGDAdversarialTraining(THREAT, steps=1, step_size="1/8")
    fast = FastAdversarialTraining(THREAT)
    assert fast.step_size == 0.125
    assert torch.equal(pgd(network(), *batch(), dice())[0], fast(network(), *batch(), dice())[0])
    assert torch.equal(pgd.craft(network(), *batch(), dice()), fast.craft(network(), *batch(), dice()))
    assert FastAdversarialTraining(THREAT, step_size="1/20").step_size == 0.05


@pytest.mark.parametrize("kind", [FastAdversarialTraining, FreeAdversarialTraining])
def test_a_step_backwards_is_refused(kind: type) -> None:
    with pytest.raises(ValueError, match=r"step_size is -0\.1; it is a distance in pixel units"):
        kind(THREAT, step_size=-0.1)


@pytest.mark.parametrize("replays", [0, -2])
def test_a_batch_has_to_be_trained_on(replays: int) -> None:
    with pytest.raises(ValueError, match=f"replays is {replays}; .* 1 or more"):
        FreeAdversarialTraining(THREAT, replays=replays)
