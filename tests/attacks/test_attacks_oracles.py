"""FGSM and PGD against plain loops written from the papers, in double precision."""

from __future__ import annotations

import pytest
import torch
from attack_table import images, network, predictions
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.attacks import ascend, crafting, fgsm, pgd
from hedgerow.seeds import derive
from hedgerow.threat import Norm, ThreatModel

EPS, STEPS, SIZE = 0.125, 6, 0.03125


def step_by_hand(
    model: nn.Module, point: Tensor, x: Tensor, y: Tensor, *, norm: Norm, size: float, eps: float
) -> Tensor:
    """One step for each image alone, through a batch of one."""
    moved = []
    for one, original, label in zip(point, x, y, strict=True):
        leaf = one.clone().requires_grad_()
        F.cross_entropy(model(leaf[None]), label[None]).backward()
        gradient = leaf.grad
        if norm == "linf":
            new = one + size * gradient.sign()
            new = original + (new - original).clamp(-eps, eps)
        else:
            new = one + size * gradient / gradient.norm()
            if (new - original).norm() > eps:
                new = original + (new - original) / (new - original).norm() * eps
        moved.append(new.clamp(0, 1))
    return torch.stack(moved)


def starts_by_hand(x: Tensor, seed: int, restart: int, eps: float) -> Tensor:
    dice = torch.Generator().manual_seed(derive(seed, "pgd", restart))
    return (x + eps * torch.empty_like(x).uniform_(-1, 1, generator=dice)).clamp(0, 1)


def pgd_by_hand(
    model: nn.Module, x: Tensor, y: Tensor, *, restarts: int, seed: int, eps: float = EPS
) -> tuple[Tensor, Tensor]:
    """The last images, and whether any point on any path was misclassified; no path is cut short."""
    broken = predictions(model, x) != y
    for restart in range(restarts):
        point = starts_by_hand(x, seed, restart, eps)
        broken |= predictions(model, point) != y
        for _ in range(STEPS):
            point = step_by_hand(model, point, x, y, norm="linf", size=SIZE, eps=eps)
            broken |= predictions(model, point) != y
    return point, broken


@pytest.fixture
def model() -> nn.Module:
    return network().double()


@pytest.fixture
def x() -> Tensor:
    return images(12).double()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fgsm_is_one_full_step(model: nn.Module, x: Tensor, norm: Norm) -> None:
    y = torch.arange(12) % 3
    expected = step_by_hand(model, x, x, y, norm=norm, size=EPS, eps=EPS)
    found = fgsm(model, x, y, threat=ThreatModel(norm, EPS))
    assert torch.allclose(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_ascend_is_projected_gradient_ascent(model: nn.Module, x: Tensor, norm: Norm) -> None:
    y = torch.arange(12) % 3
    point = x
    for _ in range(STEPS):
        point = step_by_hand(model, point, x, y, norm=norm, size=SIZE, eps=EPS)
    with crafting(model) as inner:
        found = ascend(
            inner,
            x,
            threat=ThreatModel(norm, EPS),
            start=x,
            loss=lambda logits, index: F.cross_entropy(logits, y[index], reduction="none"),
            steps=STEPS,
            step_size=SIZE,
        )
    assert torch.allclose(found, point, atol=1e-12, rtol=0)


def test_pgd_is_the_plain_loop_where_nothing_breaks(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        model[4].bias[1] += 3.0
    y = predictions(model, x)
    last, broken = pgd_by_hand(model, x, y, restarts=2, seed=3)
    assert not broken.any()
    found = pgd(model, x, y, threat=ThreatModel("linf", EPS), steps=STEPS, step_size=SIZE, restarts=2, seed=3)
    assert torch.allclose(found, last, atol=1e-12, rtol=0)


@pytest.mark.parametrize("eps", [0.03125, 0.0625, EPS])
def test_leaving_early_changes_no_verdict(model: nn.Module, x: Tensor, eps: float) -> None:
    y = predictions(model, x)
    y[0] = (y[0] + 1) % 3
    _, broken = pgd_by_hand(model, x, y, restarts=2, seed=1, eps=eps)
    assert broken.sum() > 1 or eps < EPS
    found = pgd(model, x, y, threat=ThreatModel("linf", eps), steps=STEPS, step_size=SIZE, restarts=2, seed=1)
    assert torch.equal(predictions(model, found) != y, broken)
    assert torch.equal(found[0], x[0]), "an image that is misclassified as it stands is left alone"


def test_every_point_that_comes_back_has_been_judged(model: nn.Module, x: Tensor) -> None:
    """The points after the last step too: a restart must not overwrite one that is broken only there."""
    y = predictions(model, x)
    wrong = torch.zeros(len(x), dtype=torch.bool)

    def stop(logits: Tensor, index: Tensor | slice) -> Tensor:
        wrong[index] = logits.argmax(1) != y[index]
        return wrong[index]

    with crafting(model) as inner:
        found = ascend(
            inner,
            x,
            threat=ThreatModel("linf", EPS),
            start=x,
            loss=lambda logits, index: F.cross_entropy(logits, y[index], reduction="none"),
            steps=1,
            step_size=EPS,
            stop=stop,
        )
    assert wrong.any()
    assert torch.equal(wrong, predictions(model, found) != y)


def test_the_default_step_is_a_quarter_of_the_radius(model: nn.Module, x: Tensor) -> None:
    y = predictions(model, x)
    threat = ThreatModel("linf", EPS)
    assert torch.equal(
        pgd(model, x, y, threat=threat, steps=4), pgd(model, x, y, threat=threat, steps=4, step_size=EPS / 4)
    )


def test_pgd_does_not_depend_on_the_batch_size(model: nn.Module, x: Tensor) -> None:
    y = predictions(model, x)
    runs = [
        pgd(model, x, y, threat=ThreatModel("linf", EPS), steps=STEPS, restarts=3, batch_size=size)
        for size in (1, 5, 12, 500)
    ]
    for found in runs[1:]:
        assert torch.allclose(found, runs[0], atol=1e-9, rtol=0)
        assert torch.equal(predictions(model, found), predictions(model, runs[0]))
    assert (predictions(model, runs[0]) != y).any()


def test_more_restarts_are_never_weaker(model: nn.Module) -> None:
    x = images(60).double()
    y = predictions(model, x)
    held = torch.ones(60, dtype=torch.bool)
    counts = []
    for restarts in (1, 2, 4, 8):
        found = pgd(model, x, y, threat=ThreatModel("linf", "1/20"), steps=1, step_size=0.01, restarts=restarts)
        holds = predictions(model, found) == y
        assert (holds <= held).all()
        held = holds
        counts.append(int(holds.sum()))
    assert counts[-1] < counts[0], "the radius must leave something for the later restarts"


def test_zero_steps_try_the_random_starts_alone(model: nn.Module, x: Tensor) -> None:
    y = predictions(model, x)
    found = pgd(model, x, y, threat=ThreatModel("linf", EPS), steps=0, restarts=1, seed=5)
    assert torch.allclose(found, starts_by_hand(x, 5, 0, EPS), atol=1e-12, rtol=0)


def test_pgd_finds_the_optimum_of_a_linear_model() -> None:
    """For two classes and a linear model the worst image is known: x - eps * sign(w_y - w_other)."""
    torch.manual_seed(1)
    line = nn.Linear(64, 2).double()
    model = nn.Sequential(nn.Flatten(), line)
    x = images(20).double() * 0.5 + 0.25
    y = predictions(model, x)
    with torch.no_grad():
        gap = (model(x)[:, 0] - model(x)[:, 1]).abs()
        slope = (line.weight[0] - line.weight[1]).abs().sum()
    eps = 0.99 * (gap.median() / slope).item()
    assert eps < 0.25, "inside, where the pixel range cuts nothing"
    robust = gap > eps * slope
    found = pgd(model, x, y, threat=ThreatModel("linf", eps), steps=20, restarts=1)
    assert torch.equal(predictions(model, found) == y, robust)
    assert 0 < robust.sum() < 20
