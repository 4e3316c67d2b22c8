"""The network that is attacked in place of a masked one computes the same, or is the masked one."""

from typing import Any

import pytest
import torch
from torch import nn

from hedgerow import physical as room
from hedgerow.attacks import pgd
from hedgerow.physical import CHECK, confirm, physical
from hedgerow.pruners import PRUNERS
from hedgerow.runtime import SparseModel
from hedgerow.sparsity import Budget
from hedgerow.threat import ThreatModel


class Net(nn.Sequential):
    def __init__(self, width: int = 16) -> None:
        super().__init__(
            nn.Conv2d(3, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(width * 64, 4),
        )


def pruned(granularity: str, sparsity: float) -> nn.Module:
    torch.manual_seed(0)
    model = Net().eval()
    pruner = PRUNERS["magnitude"](granularity=granularity)
    pruner.attach(model, Budget(sparsity), example=torch.rand(2, 3, 8, 8))
    pruner.finish()
    return model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_a_channel_pruned_network_is_attacked_in_its_small_form(images: torch.Tensor) -> None:
    model = pruned("channel", 0.5)
    found = physical(model, images, "channel")
    assert found.same
    assert found.model is not model
    assert sum(p.numel() for p in found.model.parameters()) < 0.7 * sum(p.numel() for p in model.parameters())
    assert torch.allclose(found.model(images), model(images), atol=1e-5)
    assert found.remark is not None
    assert "the shrunk one was taken" in found.remark


@pytest.mark.parametrize(("granularity", "sparsity"), [("weight", 0.5), ("channel", 0.0), ("kernel", 0.5)])
def test_where_there_is_nothing_to_gain_it_is_the_network_itself(
    images: torch.Tensor, granularity: str, sparsity: float
) -> None:
    model = pruned(granularity, sparsity)
    found = physical(model, images, granularity)
    assert found.model is model
    assert found.remark is None


def test_a_small_form_that_differs_is_not_attacked_and_the_check_fails(
    images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = room.shrink

    def wrong(model: nn.Module, example: torch.Tensor) -> object:
        found = right(model, example)
        with torch.no_grad():
            next(found.model.parameters()).add_(0.1)
        return found

    monkeypatch.setattr(room, "shrink", wrong)
    model = pruned("channel", 0.5)
    found = physical(model, images, "channel")
    assert found.model is model
    assert not found.same
    assert found.remark is not None
    assert "the masked one was taken" in found.remark
    assert CHECK


def test_a_network_that_cannot_be_traced_is_attacked_as_it_is(images: torch.Tensor) -> None:
    class Deciding(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.sum() > 0 else super().forward(-x)

    model = Deciding()
    assert physical(model, images, "channel").model is model


@pytest.fixture
def heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count any work as enough to compile kernels for."""
    monkeypatch.setattr(room, "_HEAVY", 0)


@pytest.mark.usefixtures("heavy")
def test_a_sparse_network_is_attacked_in_the_sparse_runtime(images: torch.Tensor) -> None:
    model = pruned("weight", 0.9)
    found = physical(model, images, "weight")
    assert isinstance(found.model, SparseModel)
    assert found.same
    assert torch.allclose(found.model(images), model(images), atol=1e-5)
    assert found.remark is not None
    assert "the sparse runtime answered" in found.remark
    threat, labels = ThreatModel("linf", 0.1), torch.arange(5) % 4
    attacks = [pgd(m, images, labels, threat=threat, steps=5, seed=3) for m in (model, found.model)]
    assert (attacks[0] - attacks[1]).abs().amax((1, 2, 3)).median() == 0


@pytest.mark.usefixtures("heavy")
def test_what_is_left_without_its_channels_is_attacked_in_the_sparse_runtime(images: torch.Tensor) -> None:
    model = pruned("channel", 0.75)
    found = physical(model, images, "channel")
    assert isinstance(found.model, SparseModel)
    assert sum(p.numel() for p in found.model.parameters()) < 0.5 * sum(p.numel() for p in model.parameters())
    assert found.same
    assert torch.allclose(found.model(images), model(images), atol=1e-5)
    assert found.remark is not None
    assert "the sparse runtime answered in the shrunk form" in found.remark


@pytest.mark.usefixtures("heavy")
def test_with_more_than_a_third_of_the_work_left_the_small_form_is_attacked(images: torch.Tensor) -> None:
    found = physical(pruned("channel", 0.25), images, "channel")
    assert not isinstance(found.model, SparseModel)
    assert found.remark is not None
    assert "the shrunk one was taken" in found.remark


@pytest.mark.usefixtures("heavy")
def test_with_most_of_the_work_left_it_is_the_network_itself(images: torch.Tensor) -> None:
    model = pruned("weight", 0.5)
    assert physical(model, images, "weight").model is model


def test_for_little_work_no_kernels_are_compiled(images: torch.Tensor) -> None:
    model = pruned("weight", 0.9)
    assert physical(model, images, "weight").model is model


@pytest.mark.usefixtures("heavy")
@pytest.mark.parametrize("wrong", ["program", "derivative"])
def test_a_runtime_that_differs_is_not_attacked_and_the_check_fails(
    images: torch.Tensor, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    class Wrong(SparseModel):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            right = getattr(self, wrong)
            setattr(self, wrong, lambda *tensors: 1.01 * right(*tensors))

    monkeypatch.setattr(room, "SparseModel", Wrong)
    model = pruned("weight", 0.9)
    found = physical(model, images, "weight")
    assert found.model is model
    assert not found.same


def test_what_the_masked_network_does_not_confirm_is_counted(images: torch.Tensor) -> None:
    model = pruned("weight", 0.5)
    predictions = model(images).argmax(1)
    assert confirm(model, images, predictions, batch_size=2) == (True, "0 of 5 answers on attacked images differ")
    predictions[3] = (predictions[3] + 1) % 4
    good, said = confirm(model, images, predictions, batch_size=2)
    assert not good
    assert said.startswith("1 of 5")
