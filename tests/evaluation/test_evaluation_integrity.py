"""The parts of the integrity checks by hand: limits, stored images, batches, labels, pixels, and the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import planted
import pytest
import torch
from torch import Tensor, nn

from hedgerow.checks import Check, graded
from hedgerow.errors import HedgerowError, RecipeError
from hedgerow.evaluation import Protocol, evaluate
from hedgerow.evaluation.chunks import Job, attack_chunk, changed_answers
from hedgerow.evaluation.detectors import Sample, batch_independence, pixel_grid, pixel_scale
from hedgerow.evaluation.judging import reachable
from hedgerow.evaluation.verdicts import labels_belong
from hedgerow.files import read_tensors, write_tensors
from hedgerow.models import Normalize
from hedgerow.recipe import parse_recipe
from hedgerow.threat import ThreatModel

QUICK = Protocol(pgd_steps=2, pgd_restarts=1, autoattack=False, batch_size=8)


class Bright(nn.Module):
    """Class 1 where the mean pixel is above a level."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, x: Tensor) -> Tensor:
        bright = x.flatten(1).mean(1) - self.level
        return torch.stack([-bright, bright], 1)


class Relative(nn.Module):
    """Compares each image with the others of its batch."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x.flatten(1).mean(1)
        return torch.stack([bright.mean() - bright, bright - bright.mean()], 1)


class Global(Bright):
    """Says that it is stochastic, and draws from the global generator for each image."""

    stochastic = True

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * torch.randn_like(x))


class Strict(Bright):
    """Refuses pixels outside [0,1]."""

    def forward(self, x: Tensor) -> Tensor:
        if x.min() < 0 or x.max() > 1:
            raise ValueError("pixels")
        return super().forward(x)


def sample_of(model: nn.Module, x: Tensor, y: Tensor) -> Sample:
    job = Job(ThreatModel("linf", "1/10"), 2, QUICK)
    predictions = model(x).argmax(1)
    return Sample(model, model, x, y, predictions, torch.zeros(len(x), dtype=torch.bool), job)


def greys(low: float, high: float, n: int = 100) -> Tensor:
    return torch.linspace(low, high, n).view(-1, 1, 1, 1).expand(n, 1, 2, 2).contiguous()


@pytest.mark.parametrize(
    ("value", "outcome"),
    [(-1, "pass"), (2, "pass"), (2.1, "warn"), (5, "warn"), (5.1, "fail"), (float("nan"), "fail")],
)
def test_a_grade_is_by_two_limits(value: float, outcome: str) -> None:
    check = graded(value, warn=2, fail=5, number="n", how="h")
    assert check == Check(outcome=outcome, number="n", how="h")  # type: ignore[arg-type]
    assert (check.passed, check.failed) == (outcome == "pass", outcome == "fail")


def test_a_stored_image_that_gives_another_verdict_is_counted(trained: Any, tmp_path: Path) -> None:
    x, y = trained.x[:8], trained.y[:8]
    job, path = Job(trained.threat, 10, QUICK), tmp_path / "chunk"
    with torch.no_grad():
        part = attack_chunk(trained.model, x, y, job, 0)
        write_tensors(path, part)
        assert changed_answers(trained.model, x, part, job, path) == (0, 0)
        assert changed_answers(trained.model, x, part, job, None) == (0, 0)
        kept = read_tensors(path)[0]
        kept["pgd_images"][3, 0, 0, 0] += 1e-6
        write_tensors(path, kept)
        assert changed_answers(trained.model, x, part, job, path) == (0, 1)
        wrong = {**part, "clean": (part["clean"] + torch.tensor([1, 0, 0, 0, 1, 0, 0, 0])) % 10}
        assert changed_answers(trained.model, x, wrong, job, None) == (2, 0)


def test_answers_that_depend_on_the_batch_are_seen() -> None:
    x, y = greys(0, 1, 20), torch.arange(20) // 10
    assert batch_independence(sample_of(Bright(0.5), x, y)).passed
    found = batch_independence(sample_of(Relative(), x, y))
    assert found.failed
    assert "8 of 8 images move" in found.number


def test_labels_are_tried_in_other_places() -> None:
    y = torch.arange(40) % 4
    assert labels_belong(y, y, 4).passed
    assert labels_belong(y, y, 4).number == "40 of 40 predictions are the label"
    assert labels_belong((y + 2) % 4, y, 4).failed
    steady = torch.arange(40) // 4 % 4
    found = labels_belong(steady.roll(1), steady, 4)
    assert found.outcome == "warn", "ten images of forty: unlikely, not sure"
    noise = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(0))
    assert labels_belong(noise, y, 4).passed
    assert labels_belong(1 - torch.arange(8) % 2, torch.zeros(8, dtype=torch.int64), 2).passed


def test_pixels_that_the_network_would_like_otherwise_are_seen() -> None:
    x = greys(0.2, 0.9)
    y = (x.flatten(1).mean(1) > 0.55).long()
    assert pixel_scale(sample_of(Bright(0.55), x, y)).passed
    more = pixel_scale(sample_of(Bright(0.0), x, y))  # it was trained on pixels with mean 0
    assert more.failed
    assert "50 of 100 right as fed" in more.number
    assert "100 right normalised once more, by their own statistics" in more.number
    network = nn.Sequential(Normalize([0.3], [0.5]), Bright(0.4))
    assert pixel_scale(sample_of(network, greys(0.4, 0.6), (greys(0.4, 0.6).flatten(1)[:, 0] > 0.5).long())).passed
    twice = (greys(0.4, 0.6) - 0.3) / 0.5
    less = pixel_scale(sample_of(network, twice, (greys(0.4, 0.6).flatten(1)[:, 0] > 0.5).long()))
    assert less.failed
    assert "right normalised once less, by the network's statistics" in less.number


def test_only_steps_that_miss_0_or_1_are_flagged() -> None:
    levels = torch.arange(256).view(1, 1, 16, 16) / 255
    good = [
        levels,
        levels[..., ::2, :4],
        torch.arange(17).view(1, 1, 1, 17) / 16,
        torch.rand(4, 3, 20, 20),
        levels > 0.5,
    ]
    assert all(pixel_grid(x.float()).passed for x in good)
    moved = levels * 0.9 + 0.053
    found = pixel_grid(torch.cat([levels, moved], 1))
    assert found.failed
    assert found.number.startswith("1 of 2 channels with equal steps miss 0 or 1: 1 (steps of 0.003529 from ")
    assert pixel_grid(((levels - 0.47) / 0.25).clamp(0, 1)).failed


def test_every_check_says_its_number_and_how_and_on_how_many(trained: Any, tmp_path: Path) -> None:
    told: list[str] = []
    protocol = Protocol(pgd_steps=2, pgd_restarts=1, autoattack=False, batch_size=8, integrity=6)
    x, y = trained.x[:12], trained.y[:12]
    found = evaluate(
        trained.model, x, y, threat=trained.threat, protocol=protocol, folder=tmp_path, tell=told.append
    ).record
    assert len(found.checks) == 17
    assert all(check.number and check.how for check in found.checks.values())
    assert sum(check.how.endswith("on 6 of 12 images") for check in found.checks.values()) == 11
    assert "read back from their files" in found.checks["stored images give their verdicts again"].how
    assert told[-1].startswith("integrity checks: ")
    again = evaluate(trained.model, x, y, threat=trained.threat, protocol=protocol, folder=tmp_path).record
    assert again.checks == found.checks


def test_none_are_run_for_no_images_and_a_negative_number_is_refused(trained: Any) -> None:
    protocol = Protocol(pgd_steps=1, pgd_restarts=1, autoattack=False, integrity=0)
    found = evaluate(trained.model, trained.x[:4], trained.y[:4], threat=trained.threat, protocol=protocol).record
    assert list(found.checks) == [
        "adversarial images lie in the ball and in [0,1]",
        "attacked accuracy is not above clean accuracy",
        "clean predictions are of more than one class",
        "labels belong to the images",
    ]
    with pytest.raises(HedgerowError, match="integrity is -1; it is a number of images"):
        Protocol(integrity=-1)
    with pytest.raises(RecipeError, match=r"evaluation\.integrity"):
        parse_recipe({"name": "x", "evaluation": {"integrity": -1}})


def test_noise_that_is_said_but_depends_on_the_batch_is_a_warning() -> None:
    x, y = greys(0.2, 0.8, 40), torch.arange(40) // 20
    found = evaluate(Global(0.5), x, y, threat=ThreatModel("linf", "1/50"), protocol=QUICK).record
    assert found.checks["answers do not vary, or the network says that they do"].outcome == "warn"
    assert found.checks["answers do not depend on batch size or order"].outcome == "warn"
    assert found.suspect == []


def test_a_network_that_takes_pixels_only_is_not_upset() -> None:
    x = greys(0.1, 0.9)
    assert pixel_scale(sample_of(Strict(0.5), x, (x.flatten(1)[:, 0] > 0.5).long())).passed


def test_answers_without_a_gradient_are_the_same_answers() -> None:
    x, model = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0)), Bright(0.5)
    assert reachable(model, x[:1]) is model
    for hidden in (lambda x: torch.from_numpy(x.numpy()), lambda x: (x > 0.5).float(), lambda x: x.detach()):
        plain = planted.Around(model, before=hidden)
        found = reachable(plain, x[:1])
        assert torch.equal(found(x), plain(x))
        point = x.clone().requires_grad_()
        assert (torch.autograd.grad(found(point).sum(), point)[0] == 0).all()
    with pytest.raises(RuntimeError, match="shape"):
        reachable(planted.Around(nn.Linear(7, 2)), x[:1])(x)
