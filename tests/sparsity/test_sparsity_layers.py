"""Masks on every kind of layer: the same output as with zeros written into the weights, in every mode."""

from __future__ import annotations

import contextlib
import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from layer_cases import CASES, MHA, Case
from torch import Tensor, nn
from torch.nn.utils import prune

from hedgerow.errors import ModelError
from hedgerow.sparsity import (
    Masks,
    attach_masks,
    bake,
    count_nonzero,
    detach,
    frozen_weights,
    prunable_weights,
    read_masks,
    shared_weights,
)

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
every_layer = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
AUTOGRAD = {"grad": contextlib.nullcontext, "no_grad": torch.no_grad, "inference": torch.inference_mode}
PROJECTIONS = ("weight", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def random_masks(model: nn.Module) -> Masks:
    generator = torch.Generator().manual_seed(2)
    return {n: torch.rand(w.dense.shape, generator=generator) < 0.5 for n, w in prunable_weights(model).items()}


def zeroed(model: nn.Module, masks: Masks) -> nn.Module:
    """The slow way: a copy with zeros in its own plain parameters."""
    model = copy.deepcopy(model)
    stored = dict(model.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            stored[name].mul_(mask)
    return model


def poisoned(model: nn.Module, masks: Masks) -> nn.Module:
    """A masked copy that stores NaN where the mask is False, so that whoever reads past the mask shows."""
    model = copy.deepcopy(model)
    attach_masks(model, masks)
    with torch.no_grad():
        for name, weight in prunable_weights(model).items():
            weight.dense[~masks[name]] = math.nan
    return model


@every_layer
def test_the_prunable_set_is_every_matrix_of_the_layer(case: Case) -> None:
    model = case.module()
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.LayerNorm)]
    matrices = [n for n, _ in model.named_parameters() if n.rpartition(".")[2] in PROJECTIONS]
    assert list(prunable_weights(model)) == [n for n in matrices if n.rpartition(".")[0] not in norms]


@every_layer
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_masked_forward_equals_zeros_in_the_weights(case: Case, training: bool) -> None:
    model = case.module().train(training)
    masks = random_masks(model)
    plain, masked, x = zeroed(model, masks), poisoned(model, masks), case.input()
    for autograd, mode in AUTOGRAD.items():
        # torch's matmul may round by the flag alone, and what is computed without autograd does not have it.
        plain.requires_grad_(autograd == "grad")
        with mode():
            expected = case.call(plain, x)
            assert expected.isfinite().all(), autograd
            assert torch.equal(case.call(masked, x), expected), autograd
            assert not torch.allclose(case.call(model, x), expected), autograd
            with shared_weights(masked):
                assert torch.equal(case.call(masked, x), expected), autograd
            with frozen_weights(masked), frozen_weights(plain):
                assert torch.equal(case.call(masked, x), case.call(plain, x)), autograd


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.native])
def test_torchs_native_path_is_taken_and_gets_masked_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    assert case.native
    model = case.module().eval()
    masks = random_masks(model)
    native, calls = getattr(torch, case.native), []

    def watch(*arguments: Any) -> Any:
        calls.append([a for a in arguments if isinstance(a, Tensor) and a.dim() == 2])
        return native(*arguments)

    monkeypatch.setattr(torch, case.native, watch)
    with torch.no_grad():
        case.call(poisoned(model, masks), case.input())
    assert calls
    assert all(len(call) >= 2 for call in calls)
    assert all((weight == 0).any() and weight.isfinite().all() for call in calls for weight in call[:2])


@every_layer
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_gradients_are_those_of_the_zeroed_layer_under_the_mask(case: Case, training: bool) -> None:
    model = case.module().train(training)
    masks = random_masks(model)
    plain, masked = zeroed(model, masks), poisoned(model, masks)
    inputs = []
    for net in (plain, masked):
        x = case.input().requires_grad_()
        case.call(net, x).square().sum().backward()
        with frozen_weights(net):  # as attacks are crafted
            (crafted,) = torch.autograd.grad(case.call(net, x).square().sum(), x)
        assert x.grad is not None
        torch.testing.assert_close(crafted, x.grad)
        inputs.append(crafted)
    assert torch.equal(*inputs)
    wanted = prunable_weights(plain)
    for name, weight in prunable_weights(masked).items():
        assert weight.dense.grad is not None
        assert wanted[name].dense.grad is not None
        assert torch.equal(weight.dense.grad, torch.where(masks[name], wanted[name].dense.grad, 0.0))


@every_layer
def test_masks_come_off_without_a_trace(case: Case) -> None:
    model = case.module()
    masks = random_masks(model)
    plain = zeroed(model, masks)
    parameters, kinds = list(model.parameters()), [type(m) for m in model.modules()]
    attach_masks(model, masks)
    assert all(torch.equal(read_masks(model)[name], mask) for name, mask in masks.items())
    assert list(read_masks(model)) == list(masks)
    kept = {name: count.kept for name, count in count_nonzero(model).items()}
    assert kept == {name: int(mask.sum()) for name, mask in masks.items()}
    for weight in prunable_weights(model).values():
        detach(weight)
    bake(model, masks)
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    assert [type(m) for m in model.modules()] == kinds
    assert list(model.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(model.state_dict()[name], value) for name, value in plain.state_dict().items())


@every_layer
def test_saved_states_fit_masked_and_plain_layers(case: Case) -> None:
    model = case.module()
    masks = random_masks(model)
    masked, other = copy.deepcopy(model), case.make()
    attach_masks(masked, masks)
    attach_masks(other, {name: torch.ones_like(mask) for name, mask in masks.items()})
    file = io.BytesIO()
    torch.save(masked.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert all(torch.equal(read_masks(other)[name], mask) for name, mask in masks.items())
    x = case.input()
    assert torch.equal(case.call(other, x), case.call(masked, x))
    bake(model, masks)
    fresh = case.make()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(case.call(fresh, x), case.call(masked, x))


def test_masks_of_another_attention_are_refused() -> None:
    joint, apart = (CASES[name].module() for name in ("attention", "attention-across"))
    with pytest.raises(ModelError, match=r"no such weight: in_proj_weight; no mask for: k_proj_weight, q_proj"):
        attach_masks(apart, random_masks(joint))
    masks = random_masks(joint)
    masks["in_proj_weight"] = masks["in_proj_weight"][:8]
    with pytest.raises(ModelError, match=r"mask of in_proj_weight: .*\[8, 8\], expected bool \[24, 8\]"):
        attach_masks(joint, masks)


def test_a_module_in_two_places_counts_once_and_is_masked_in_both() -> None:
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    masks = random_masks(model)
    assert list(masks) == ["0.weight"]
    expected, masked, x = zeroed(model, masks), poisoned(model, masks), torch.randn(2, 4)
    assert torch.equal(masked(x), expected(x))


def tied_embedding() -> nn.Module:
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4))
    model[1].weight = model[0].weight
    return model


def tied_attentions() -> nn.Module:
    model = nn.ModuleList(nn.MultiheadAttention(4, 2) for _ in range(2))
    model[1].in_proj_weight = model[0].in_proj_weight
    return model


def tied_query_and_key() -> nn.Module:
    model = nn.MultiheadAttention(4, 2, vdim=3)
    model.k_proj_weight = model.q_proj_weight
    return model


def tied_by_a_transposed_view() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3))
    model[1].weight = nn.Parameter(model[0].weight.detach().t())
    return model


def old_weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning):
        return torch.nn.utils.weight_norm(nn.Linear(3, 4))


def old_pruning() -> nn.Module:
    model = nn.Linear(3, 4)
    prune.random_unstructured(model, "weight", 0.5)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (tied_embedding, r"0\.weight and 1\.weight share one tensor"),
        (tied_attentions, r"1\.in_proj_weight and 0\.in_proj_weight share one tensor"),
        (tied_query_and_key, "k_proj_weight and q_proj_weight share one tensor"),
        (tied_by_a_transposed_view, r"1\.weight and 0\.weight share one tensor"),
        (lambda: nn.LazyLinear(3), "weight has no shape yet: LazyLinear .* run one forward pass"),
        (lambda: nn.Sequential(nn.LazyConv2d(3, 3)), r"0\.weight has no shape yet: LazyConv2d"),
        (
            lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
            "weight is parametrized by _WeightNorm, .* remove that by .*remove_parametrizations",
        ),
        (
            lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4))),
            r"0\.weight is parametrized by _SpectralNorm",
        ),
        (old_weight_norm, "weight is no parameter: .*such as weight_norm"),
        (old_pruning, "weight is no parameter: .*prune; remove that before pruning"),
        (lambda: nn.LSTM(3, 4), "LSTM has no prunable layer: no Conv1d.* recurrent layers always stay dense"),
        (lambda: nn.ConvTranspose2d(3, 4, 3), "has no prunable layer: .*transposed convolutions"),
        (lambda: nn.Embedding(3, 4), "has no prunable layer: .*embeddings"),
    ],
)
def test_what_no_mask_can_describe_is_a_model_error(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        prunable_weights(make())


def test_a_lazy_layer_can_be_pruned_after_its_first_batch() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    model(torch.randn(2, 4))
    assert prunable_weights(model)["0.weight"].dense.shape == (3, 4)


def test_slices_of_one_memory_are_not_taken_for_tied() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3))
    flat = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    torch.nn.utils.vector_to_parameters(flat, model.parameters())
    assert model[1].weight.untyped_storage().data_ptr() == model[0].weight.untyped_storage().data_ptr()
    assert list(prunable_weights(model)) == ["0.weight", "1.weight"]


def test_the_native_path_of_attention_and_the_others_agree() -> None:
    """The premise of the tests above: what autograd decides on is the path, not the function."""
    case = CASES["attention"]
    assert case.native == MHA
    model, x = case.module().eval(), case.input()
    with torch.no_grad():
        fast = case.call(model, x)
    torch.testing.assert_close(fast, case.call(model, x))
