"""What holds for every registered objective."""

from __future__ import annotations

import pytest
import torch
from objective_table import CASES, THREAT, batch, buffers, dice, gradients, make, network, same
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.objectives import OBJECTIVES
from hedgerow.sparsity import attach_masks, prunable_weights, shared_weights


def full_masks(model: nn.Module) -> dict[str, Tensor]:
    return {n: torch.ones(w.dense.shape, dtype=torch.bool) for n, w in prunable_weights(model).items()}


every_objective = pytest.mark.parametrize("name", CASES)
crafting_objective = pytest.mark.parametrize("name", [n for n in OBJECTIVES if hasattr(OBJECTIVES[n], "craft")])

# Objectives that become plain cross-entropy on clean images when the attacker can do nothing.
CROSS_ENTROPY_AT_ZERO = ["natural", "pgd-at", "trades", "fast-at", "free-at", "ibp", "crown-ibp", "mixtrain"]
NO_ATTACK = ["natural", "smoothing", "ibp", "crown-ibp", "mixtrain"]


def test_the_table_holds_the_known_objectives() -> None:
    assert {*CROSS_ENTROPY_AT_ZERO, "mart", "hybrid"} <= set(OBJECTIVES)
    assert {f"{n}+awp" for n in ("pgd-at", "trades", "mart", "hybrid", "fast-at")} <= set(CASES)
    assert {f"{n}+smoothed" for n in ("natural", "pgd-at", "trades", "hybrid", "fast-at")} <= set(CASES)
    assert all(OBJECTIVES.summary(name) for name in OBJECTIVES)


@every_objective
def test_loss_is_a_finite_scalar_with_a_gradient_to_every_parameter(name: str) -> None:
    model = network()
    loss, scalars = make(name)(model, *batch(), dice())
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    for gradient in gradients(model, loss):
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
    assert 0 <= scalars["train_accuracy"] <= 1
    assert all(not value.requires_grad and value.shape == () for value in scalars.values())


@every_objective
def test_before_the_backward_no_parameter_has_a_gradient(name: str) -> None:
    model = network()
    make(name)(model, *batch(), dice())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules())


@crafting_objective
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_crafting_changes_neither_buffers_nor_gradients(name: str, mode: str) -> None:
    model, (x, y) = network(), batch()
    before = buffers(model)
    objective = make(name, craft_mode=mode)
    found = objective.craft(*((model, x, y, dice()) if name != "trades" else (model, x, dice())))
    assert buffers(model) == before
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules())
    assert not found.requires_grad
    assert found.min() >= 0
    assert found.max() <= 1
    assert 0 < THREAT.distance(found, x).max() <= float(THREAT.eps) + 1e-6


@crafting_objective
def test_the_two_crafting_modes_differ(name: str) -> None:
    losses = [make(name, craft_mode=mode)(network(), *batch(), dice())[0].item() for mode in ("eval", "train")]
    assert losses[0] != losses[1]


FORWARDS = {"natural": 1, "pgd-at": 1, "trades": 2, "hybrid": 2, "mart": 2, "fast-at": 1, "free-at": 1}


@pytest.mark.parametrize(
    ("name", "forwards"), [(case, n) for case in CASES if (n := FORWARDS.get(case.partition("+")[0]))]
)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_batch_norm_sees_the_training_forwards_only(name: str, forwards: int, mode: str) -> None:
    model = network()
    make(name, craft_mode=mode)(model, *batch(), dice())
    assert model[1].num_batches_tracked == forwards


@every_objective
def test_who_attacks_reports_the_accuracy_under_attack(name: str) -> None:
    _, scalars = make(name)(network(), *batch(), dice())
    assert ("attacked_accuracy" in scalars) == (name.partition("+")[0] not in NO_ATTACK)


@every_objective
def test_equal_seeds_give_equal_losses_bit_for_bit(name: str) -> None:
    results = []
    for _ in range(2):
        model = network()
        torch.rand(5)
        loss, _ = make(name)(model, *batch(), dice(4))
        results.append([loss, *gradients(model, loss)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@crafting_objective
def test_another_seed_gives_another_loss(name: str) -> None:
    losses = [make(name)(network(), *batch(), dice(seed))[0].item() for seed in (0, 1)]
    assert losses[0] != losses[1]


@every_objective
def test_a_generator_leaves_the_global_one_alone(name: str) -> None:
    model = network()
    before = torch.get_rng_state()
    make(name)(model, *batch(), dice())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", CROSS_ENTROPY_AT_ZERO)
def test_without_an_attacker_the_loss_is_cross_entropy(name: str) -> None:
    model, (x, y) = network(), batch()
    loss, scalars = make(name, THREAT.with_eps(0))(model, x, y, dice())
    logits = model(x)
    expected = F.cross_entropy(logits, y)
    assert torch.allclose(loss, expected, atol=1e-6)
    assert same(gradients(model, loss), gradients(model, expected), atol=1e-6)
    assert scalars["train_accuracy"] == (logits.argmax(1) == y).float().mean()


@every_objective
def test_under_bfloat16_the_loss_is_float32(name: str) -> None:
    model = network()
    attach_masks(model, full_masks(model))
    full, _ = make(name)(model, *batch(), dice())
    with shared_weights(model), torch.autocast("cpu", torch.bfloat16):
        assert model[4](torch.rand(2, 36)).dtype == torch.bfloat16
        loss, _ = make(name)(model, *batch(), dice())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(full.item(), rel=0.1)
    assert all(gradient.dtype == torch.float32 for gradient in gradients(model, loss))


@every_objective
def test_a_full_mask_is_the_dense_network_bit_for_bit(name: str) -> None:
    dense, masked = network(), network()
    attach_masks(masked, full_masks(masked))
    with shared_weights(masked):
        loss, _ = make(name)(masked, *batch(), dice())
        loss.backward()
    expected, _ = make(name)(dense, *batch(), dice())
    expected.backward()
    assert torch.equal(loss, expected)
    found = dict(masked.named_parameters())
    for name_in_dense, parameter in dense.named_parameters():
        layer, _, kind = name_in_dense.partition(".")
        behind_mask = f"{layer}.parametrizations.{kind}.original"
        assert torch.equal(found[behind_mask if behind_mask in found else name_in_dense].grad, parameter.grad)


@every_objective
def test_under_no_grad_the_value_is_the_same(name: str) -> None:
    expected, _ = make(name)(network(), *batch(), dice())
    with torch.no_grad():
        loss, _ = make(name)(network(), *batch(), dice())
    assert torch.equal(loss, expected)
    assert not loss.requires_grad
