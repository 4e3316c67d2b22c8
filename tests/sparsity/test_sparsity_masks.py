"""Masks, budgets and the effective weight, against slow oracles and limits."""

from __future__ import annotations

import copy
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hedgerow.errors import ModelError
from hedgerow.registry import UnknownNameError
from hedgerow.sparsity import (
    WEIGHT,
    Budget,
    Granularity,
    MaskedWeight,
    attach_masks,
    bake,
    count_nonzero,
    detach,
    frozen_weights,
    kept_count,
    prunable_weights,
    read_masks,
    shared_weights,
    topk_mask,
    total_count,
)


def sorted_mask(scores: torch.Tensor, keep: int) -> torch.Tensor:
    """The slow way: sort (score, index) pairs; the first ones go."""
    order = sorted(range(scores.numel()), key=lambda i: (scores.flatten()[i].item(), i))
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[order[scores.numel() - keep :]] = True
    return mask.view_as(scores)


@settings(deadline=None, max_examples=200)
@given(values=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5]), min_size=1, max_size=40), data=st.data())
def test_topk_mask_equals_a_sort_with_ties_to_the_lower_index(values: list[float], data: st.DataObject) -> None:
    keep = data.draw(st.integers(0, len(values)))
    scores = torch.tensor(values)
    mask = topk_mask(scores, keep)
    assert mask.sum().item() == keep
    assert torch.equal(mask, sorted_mask(scores, keep))


def test_topk_mask_on_a_large_continuous_tensor() -> None:
    scores = torch.rand(64, 32, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(topk_mask(scores, 1843), sorted_mask(scores, 1843))


def test_topk_mask_refuses_nan_and_impossible_counts() -> None:
    with pytest.raises(ValueError, match="NaN"):
        topk_mask(torch.tensor([1.0, math.nan, 2.0]), 1)
    with pytest.raises(ValueError, match="cannot keep 4 of 3"):
        topk_mask(torch.ones(3), 4)


@pytest.mark.parametrize(
    ("total", "sparsity", "kept"),
    [(10, "0.9", 1), (1000, "0.99", 10), (7, "0", 7), (3, "0.99", 1), (100, "0.29", 71), (1, "0.5", 1)],
)
def test_kept_count_is_exact(total: int, sparsity: str, kept: int) -> None:
    assert kept_count(total, Fraction(sparsity)) == kept


@given(total=st.integers(1, 10**7), hundredths=st.integers(0, 99))
def test_kept_count_does_not_depend_on_float_rounding(total: int, hundredths: int) -> None:
    assert kept_count(total, Budget(hundredths / 100).sparsity) == max(1, total - hundredths * total // 100)


def test_budget_refuses_what_is_no_sparsity() -> None:
    for bad in (1.2, 1, -0.1):
        with pytest.raises(ValueError, match=r"not in \[0, 1\)"):
            Budget(bad)
    with pytest.raises(UnknownNameError, match="did you mean 'uniform'"):
        Budget(0.9, "unifrom")


def test_granularity_views_a_tensor_as_groups() -> None:
    weight = torch.arange(24.0).view(4, 3, 2, 1)
    filters = Granularity("filter", (0,))
    assert filters.count(weight) == 4
    assert filters.scores(weight).flatten().tolist() == [weight[i].sum().item() for i in range(4)]
    mask = filters.expand(topk_mask(filters.scores(weight), 1), weight)
    assert mask.shape == weight.shape
    assert mask[3].all()
    assert not mask[:3].any()
    assert WEIGHT.count(weight) == 24
    assert WEIGHT.scores(weight) is weight


def test_prunable_weights_are_convolutions_and_linears_of_any_kind() -> None:
    model = nn.ModuleDict(
        {
            "c1": nn.Conv1d(2, 4, 3, groups=2),
            "c2": nn.Conv2d(3, 8, 3),
            "c3": nn.Conv3d(1, 2, 3),
            "fc": nn.Linear(5, 2),
            "bn": nn.BatchNorm2d(8),
            "emb": nn.Embedding(3, 4),
        }
    )
    assert list(prunable_weights(model)) == ["c1.weight", "c2.weight", "c3.weight", "fc.weight"]
    assert list(prunable_weights(nn.Linear(2, 2))) == ["weight"]


def test_a_model_without_prunable_layers_or_with_shared_ones_is_refused() -> None:
    with pytest.raises(ModelError, match="no prunable layer"):
        prunable_weights(nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()))
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    with pytest.raises(ModelError, match=r"1\.weight and 0\.weight share one tensor"):
        prunable_weights(tied)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def half_masks(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: topk_mask(w.dense.abs(), w.dense.numel() // 2) for n, w in prunable_weights(model).items()}


def test_full_masks_change_nothing_bit_for_bit(model: nn.Module) -> None:
    x = torch.rand(5, 2, 8, 8)
    masked = copy.deepcopy(model)
    attach_masks(
        masked, {n: torch.ones_like(w.dense, dtype=torch.bool) for n, w in prunable_weights(model).items()}
    )
    out, expected = masked(x), model(x)
    assert torch.equal(out, expected)
    out.sum().backward()
    expected.sum().backward()
    for (_, a), (_, b) in zip(prunable_weights(masked).items(), prunable_weights(model).items(), strict=True):
        assert torch.equal(a.dense.grad, b.dense.grad)


def test_masked_weights_get_no_gradient_and_the_others_the_usual_one(model: nn.Module) -> None:
    masks = half_masks(model)
    plain = copy.deepcopy(model)
    bake(plain, masks)
    attach_masks(model, masks)
    x = torch.rand(5, 2, 8, 8)
    model(x).square().sum().backward()
    plain(x).square().sum().backward()
    for name, weight in prunable_weights(model).items():
        expected = prunable_weights(plain)[name].dense.grad * masks[name]
        assert torch.equal(weight.dense.grad, expected)


def test_baking_leaves_positive_zeros_even_over_nan(model: nn.Module) -> None:
    masks = half_masks(model)
    weight = prunable_weights(model)["0.weight"].dense
    with torch.no_grad():
        weight[~masks["0.weight"]] = math.nan
        weight[0, 0, 0, 0] = -1.0
    masks["0.weight"][0, 0, 0, 0] = False
    bake(model, masks)
    zeros = weight[~masks["0.weight"]]
    assert (zeros == 0).all()
    assert not torch.signbit(zeros).any()


def test_counts_are_of_what_the_layer_uses(model: nn.Module) -> None:
    masks = half_masks(model)
    attach_masks(model, masks)
    counts = count_nonzero(model)
    assert {n: c.kept for n, c in counts.items()} == {n: int(m.sum()) for n, m in masks.items()}
    total = total_count(counts)
    assert total.density == pytest.approx(0.5)
    assert total.density + total.sparsity == 1


def test_detaching_leaves_a_plain_model_with_the_same_parameters(model: nn.Module) -> None:
    keys = list(model.state_dict())
    identities = [id(p) for p in model.parameters()]
    attach_masks(model, half_masks(model))
    x = torch.rand(2, 2, 8, 8)
    before = model(x)
    for weight in prunable_weights(model).values():
        detach(weight)
    assert list(model.state_dict()) == keys
    assert [id(p) for p in model.parameters()] == identities
    assert torch.equal(model(x), before)
    assert type(model[0]) is nn.Conv2d


def test_masks_can_be_read_back_and_must_fit(model: nn.Module) -> None:
    masks = half_masks(model)
    attach_masks(copy := nn.Sequential(*model), masks)
    assert all(torch.equal(read_masks(copy)[n], m) for n, m in masks.items())
    other = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(ModelError, match="masks are of another model"):
        attach_masks(other, masks)
    with pytest.raises(ModelError, match=r"expected bool \[3, 3\]"):
        attach_masks(other, {"0.weight": torch.ones(3, 3)})


def test_a_second_method_on_a_model_that_is_still_held_is_refused(model: nn.Module) -> None:
    attach_masks(model, half_masks(model))
    with pytest.raises(ModelError, match=r"0\.weight is parametrized already"):
        attach_masks(model, half_masks(model))


class Counting(MaskedWeight):
    calls = 0

    def effective(self, dense: torch.Tensor) -> torch.Tensor:
        Counting.calls += 1
        return super().effective(dense)


def test_shared_weights_compute_once_and_sum_the_gradients(model: nn.Module) -> None:
    from hedgerow.sparsity import attach

    twin = copy.deepcopy(model)
    for name, mask in half_masks(model).items():
        attach(prunable_weights(model)[name], Counting(mask))
        attach(prunable_weights(twin)[name], MaskedWeight(mask))
    x = torch.rand(2, 2, 8, 8)
    Counting.calls = 0
    with shared_weights(model):
        with frozen_weights(model):
            assert not model(x).requires_grad
        (model(x).sum() + model(2 * x).square().sum()).backward()
    assert Counting.calls == 2  # one per layer, for three forwards
    (twin(x).sum() + twin(2 * x).square().sum()).backward()
    for (_, a), (_, b) in zip(prunable_weights(model).items(), prunable_weights(twin).items(), strict=True):
        torch.testing.assert_close(a.dense.grad, b.dense.grad)
    with torch.no_grad():
        prunable_weights(model)["0.weight"].dense.zero_()
    assert (model[0].weight == 0).all()  # nothing stale outlives the context


def test_frozen_weights_are_restored_even_after_an_error(model: nn.Module) -> None:
    attach_masks(model, half_masks(model))
    model[3].bias.requires_grad_(False)

    def fail() -> None:
        with frozen_weights(model):
            assert not any(p.requires_grad for p in model.parameters())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["3.bias"]
    assert model(torch.rand(1, 2, 8, 8)).requires_grad
