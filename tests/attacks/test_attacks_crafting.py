"""The crafting room: weights are constants, modes and buffers come back, effective weights are reused."""

from __future__ import annotations

import pytest
import torch
from attack_table import images, network, predictions, snapshot
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.attacks import bare, check_images, crafting, pgd
from hedgerow.errors import DataError
from hedgerow.objectives import PGDAdversarialTraining, Trades
from hedgerow.sparsity import attach, attach_masks, prunable_weights, shared_weights
from hedgerow.sparsity.effective import EffectiveWeight
from hedgerow.threat import ThreatModel

THREAT = ThreatModel("linf", "8/255")


class Counted(EffectiveWeight):
    """Halves the weight and counts how often it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def effective(self, dense: Tensor) -> Tensor:
        self.times += 1
        return dense / 2


@pytest.fixture
def counted() -> tuple[nn.Module, list[Counted]]:
    model, counters = network(), []
    for weight in prunable_weights(model).values():
        counters.append(Counted())
        attach(weight, counters[-1])
        counters[-1].times = 0
    return model, counters


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("kind", [PGDAdversarialTraining, Trades])
def test_shared_weights_are_computed_once_for_any_number_of_steps(
    counted: tuple[nn.Module, list[Counted]], kind: type, steps: int
) -> None:
    model, counters = counted
    model.requires_grad_(True).train()
    with shared_weights(model):
        loss, _ = kind(THREAT, steps=steps)(model, images(), torch.arange(6) % 3, torch.Generator())
        loss.backward()
    assert [counter.times for counter in counters] == [1, 1]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_an_attack_alone_computes_each_weight_once(counted: tuple[nn.Module, list[Counted]]) -> None:
    model, counters = counted
    x = images()
    y = predictions(model, x)
    for counter in counters:
        counter.times = 0
    pgd(model, x, y, threat=THREAT, steps=7, restarts=3)
    assert [counter.times for counter in counters] == [1, 1]
    model(x)
    assert [counter.times for counter in counters] == [2, 2], "outside, the weight follows the parameters again"


def test_inside_no_graph_reaches_a_parameter(counted: tuple[nn.Module, list[Counted]]) -> None:
    model, _ = counted
    model.requires_grad_(True)
    with crafting(model) as inner:
        assert not inner(images()).requires_grad
        point = images().requires_grad_()
        (gradient,) = torch.autograd.grad(inner(point).sum(), point)
    assert gradient.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert model(images()).requires_grad


def test_train_mode_uses_batch_statistics_and_puts_the_buffers_back() -> None:
    model = network().train()
    before = snapshot(model)
    x = images()
    with crafting(model, "train") as inner:
        assert inner.training
        logits = inner(x)
        assert snapshot(model)["values"] != before["values"], "running statistics move inside"
    assert snapshot(model) == before
    normalised = F.batch_norm(model[0](x), None, None, model[1].weight, model[1].bias, training=True)
    assert torch.allclose(logits, model[2:](normalised), atol=1e-6)


def test_train_mode_crafting_inside_shared_masked_weights_can_be_differentiated() -> None:
    """The masks belong to the outer graph: putting buffers back must not spoil it."""
    model = network().requires_grad_(True).train()
    attach_masks(model, {name: torch.rand(w.dense.shape) > 0.5 for name, w in prunable_weights(model).items()})
    objective = PGDAdversarialTraining(THREAT, steps=2, craft_mode="train")
    with shared_weights(model):
        loss, _ = objective(model, images(), torch.arange(6) % 3, torch.Generator().manual_seed(0))
        loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model[1].num_batches_tracked == 2, "one from the fixture, one from the training forward"


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_failure_inside_leaves_nothing_behind(mode: str) -> None:
    model = network().train()
    model[1].eval()
    before = snapshot(model)

    def fail() -> None:
        with crafting(model, mode) as inner:  # type: ignore[arg-type]
            inner(images())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert snapshot(model) == before


def test_crafting_rooms_may_be_nested() -> None:
    model = network().train()
    before = snapshot(model)
    with crafting(model) as outer, crafting(outer, "train") as inner:
        assert inner is model
    assert snapshot(model) == before


def test_the_wrapper_of_a_precision_plugin_is_taken_off() -> None:
    model = network()
    wrapped = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed").setup_module(model)
    assert wrapped is not model
    assert bare(wrapped) is model
    assert bare(model) is model


def test_labels_are_checked_against_the_number_of_classes() -> None:
    x, y = images(), torch.tensor([0, 1, 2, 0, 1, 3])
    check_images(x, y)
    check_images(x, y, 4)
    with pytest.raises(DataError, match="labels run from 0 to 3; expected 0 to 2"):
        check_images(x, y, 3)


def test_pixels_on_the_ends_of_the_range_pass() -> None:
    check_images(torch.tensor([[0.0, 1.0]]))
    check_images(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64))
