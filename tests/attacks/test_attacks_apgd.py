"""Auto-PGD: its checkpoints and step rule against slow ones, losses by hand, and the package's on one start."""

from __future__ import annotations

import logging
from fractions import Fraction

import pytest
import torch
from attack_table import images, predictions
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor, nn

from hedgerow.attacks import apgd, apgd_targeted, ascend, crafting
from hedgerow.attacks.apgd import AutoPace, checkpoints, must_halve, targeted_words
from hedgerow.attacks.losses import cross_entropy, dlr, likeliest_other, margin, targeted_dlr
from hedgerow.threat import Norm, ThreatModel

STEPS = 100


def linear(classes: int) -> nn.Module:
    torch.manual_seed(classes)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes)).double()


def climbed(model: nn.Module, x: Tensor, start: Tensor, threat: ThreatModel, loss) -> AutoPace:
    """Our ascent over all steps with nobody dropped."""
    pace = AutoPace(x, threat, STEPS)
    with crafting(model) as inner:
        ascend(inner, x, threat=threat, start=start, loss=loss, steps=STEPS, step_size=pace)
    return pace


def test_the_checkpoints_are_those_of_the_paper() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(20) == [5, 9, 12, 14, 16, 18, 19, 20]
    assert checkpoints(1) == [1]


@pytest.mark.parametrize("steps", [1, 7, 20, 33, 50, 100, 1000])
def test_the_checkpoints_follow_the_recursion(steps: int) -> None:
    shares = [Fraction(0), Fraction(22, 100)]
    while shares[-1] <= 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - Fraction(3, 100), Fraction(6, 100)))
    expected = [-(-share * steps // 1) for share in shares[1:-1]]
    assert checkpoints(steps) == sorted(set(expected))


def test_the_step_size_is_halved_by_either_condition() -> None:
    rises = torch.tensor([16, 17, 22, 22, 22])
    best, before = torch.tensor([2.0, 2.0, 1.0, 1.0, 2.0]), torch.ones(5)
    halved = torch.tensor([False, False, False, True, False])
    found = must_halve(rises, 22, best=best, best_before=before, halved_before=halved)
    assert found.tolist() == [True, False, True, False, False]


def by_hand(
    model: nn.Module, x: Tensor, start: Tensor, label: int, threat: ThreatModel
) -> tuple[list[float], Tensor]:
    """Algorithm 1 for one image: the step size after each step, and the best point."""
    eps, size, sizes = float(threat.eps), 2 * float(threat.eps), []

    def look(point: Tensor) -> tuple[float, Tensor]:
        leaf = point.clone().requires_grad_()
        loss = torch.logsumexp(model(leaf[None])[0], 0) - model(leaf[None])[0, label]
        return loss.item(), torch.autograd.grad(loss, leaf)[0]

    def ball(point: Tensor) -> Tensor:
        delta = point - x
        delta = (
            delta.clamp(-eps, eps)
            if threat.norm == "linf"
            else delta * min(1.0, eps / max(delta.norm().item(), 1e-12))
        )
        return (x + delta).clamp(0, 1)

    def unit(gradient: Tensor) -> Tensor:
        return gradient.sign() if threat.norm == "linf" else gradient / gradient.norm()

    point, before = start, start
    loss, gradient = look(point)
    values, best = [loss], (loss, point, gradient)
    last_check, best_then, halved = 0, loss, True
    for step in range(1, STEPS + 1):
        straight = ball(point + size * unit(gradient))
        share = 1.0 if step == 1 else 0.75
        new = ball(point + share * (straight - point) + (1 - share) * (point - before))
        before, point = point, new
        loss, gradient = look(point)
        values.append(loss)
        if loss > best[0]:
            best = (loss, point, gradient)
        if step in checkpoints(STEPS):
            rises = sum(values[i] > values[i - 1] for i in range(last_check + 1, step + 1))
            reduce = rises <= 0.75 * (step - last_check) or (not halved and best[0] == best_then)
            if reduce:
                size /= 2
                _, point, gradient = best
            last_check, best_then, halved = step, best[0], reduce
        sizes.append(size)
    return sizes, best[1]


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.8)])
def test_an_ascent_is_that_of_the_algorithm_written_out(norm: Norm, eps: float) -> None:
    model, x, threat = linear(4), images(5).double(), ThreatModel(norm, eps)
    y = predictions(model, x)
    start = threat.random_start(x, torch.Generator().manual_seed(3))
    pace = climbed(model, x, start, threat, lambda logits, index: cross_entropy(logits, y[index]))
    halvings = set()
    for i in range(len(x)):
        sizes, best = by_hand(model, x[i], start[i], int(y[i]), threat)
        assert pace.size[i].item() == pytest.approx(sizes[-1])
        assert torch.allclose(pace.best[i], best, atol=1e-9)
        halvings.add(round(2 * eps / sizes[-1]))
    assert max(halvings) > 1, "the rule must have been at work"


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["ce", "dlr", "targeted"])
def test_its_loss_is_not_below_that_of_the_package_from_the_same_start(norm: Norm, name: str) -> None:
    model, x, threat = linear(10).float(), images(40), ThreatModel(norm, 0.03 if norm == "linf" else 0.3)
    y = predictions(model, x)
    start = threat.random_start(x, torch.Generator().manual_seed(5))
    target = likeliest_other(model(x), y, 1)
    kind = APGDAttack_targeted if name == "targeted" else APGDAttack
    theirs = kind(
        model, n_iter=STEPS, norm={"linf": "Linf", "l2": "L2"}[norm], eps=float(threat.eps), seed=0, device="cpu",
        logger=logging.getLogger("auto-attack"),
    )  # fmt: skip
    theirs.init_hyperparam(x)
    if name == "targeted":
        theirs.y_target = target
    else:
        theirs.loss = name
    _, _, expected, _ = theirs.attack_single_run(x, y, x_init=start)
    losses = {
        "ce": lambda logits, index: cross_entropy(logits, y[index]),
        "dlr": lambda logits, index: dlr(logits, y[index]),
        "targeted": lambda logits, index: targeted_dlr(logits, y[index], target[index]),
    }
    found = climbed(model, x, start, threat, losses[name]).best_loss
    close = found >= expected - 1e-4 * expected.abs()
    assert close.float().mean() >= 0.95
    assert found.mean() >= expected.mean() - 1e-4


def test_losses_by_hand() -> None:
    logits = torch.tensor([[4.0, 1.0, 3.0, 2.0], [0.0, 5.0, 1.0, 3.0]])
    y, target = torch.tensor([0, 3]), torch.tensor([3, 0])
    assert margin(logits, y).tolist() == [-1.0, 2.0]
    assert dlr(logits, y) == pytest.approx(torch.tensor([-1 / 2, 2 / 4]))
    assert targeted_dlr(logits, y, target) == pytest.approx(torch.tensor([-2 / 2.5, -3 / 4.5]))
    assert [likeliest_other(logits, y, rank).tolist() for rank in range(3)] == [[2, 1], [3, 2], [1, 0]]
    for loss in (dlr, lambda z, y: targeted_dlr(z, y, target)):
        assert torch.allclose(loss(7 * logits + 3, y), loss(logits, y)), "neither shift nor scale changes it"


def test_few_classes() -> None:
    y = torch.tensor([0, 1])
    two = torch.tensor([[1.0, 2.0], [0.5, -1.0]])
    assert torch.equal(dlr(two, y), cross_entropy(two, y))
    assert torch.equal(targeted_dlr(two, y, 1 - y), cross_entropy(two, y))
    three = torch.tensor([[4.0, 1.0, 3.0], [0.0, 5.0, 1.0]])
    assert targeted_dlr(three, y, torch.tensor([1, 0])) == pytest.approx(torch.tensor([-3 / 3, -5 / 5]))
    assert "DLR needs 3 classes" in targeted_words(2, 9)
    assert "4 classes needed" in targeted_words(3, 9)
    assert targeted_words(10, 9) == "targeted DLR, 9 target classes"


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("loss", ["ce", "dlr", "t"])
def test_broken_images_are_broken_and_the_others_at_their_highest_loss(classes: int, loss: str) -> None:
    torch.manual_seed(classes)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    x, threat = images(24), ThreatModel("linf", 0.02)
    y = predictions(model, x)
    if loss == "t":
        found = apgd_targeted(model, x, y, threat=threat, num_classes=classes, steps=10)
    else:
        found = apgd(model, x, y, threat=threat, loss=loss, steps=10)  # type: ignore[arg-type]
    stands = predictions(model, found) == y
    weight = model[1].weight.detach()
    gaps = (weight[:, None] - weight[None]).abs().sum(2)[y]  # a linear model's margins move by eps times this
    logits = model(x).detach()
    room = (logits.gather(1, y[:, None]) - logits).masked_fill(nn.functional.one_hot(y, classes).bool(), torch.inf)
    provable = (room > 0.02 * gaps + 1e-6).all(1)
    assert 0 < stands.sum() < len(x)
    assert stands[provable].all()
    assert (margin(model(found), y) >= margin(logits, y)).all()
