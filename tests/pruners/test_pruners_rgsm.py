"""RGSM against its equations done slowly."""

from __future__ import annotations

import math
from typing import Any

import dense_cases
import pytest
import torch
from dense_cases import begin, dense_weights, loop, seen_weights
from torch import Tensor

from hedgerow.errors import ModelError
from hedgerow.pruners import Progress
from hedgerow.pruners.rgsm import Rgsm
from hedgerow.sparsity import CHANNEL, FILTER, Budget, count_nonzero, sparse_view


def channels(weight: Tensor) -> list[tuple[slice | int, ...]]:
    """Indices of the groups: input channels, or output channels where there is one input channel."""
    if weight.shape[1] == 1:
        return [(i,) for i in range(weight.shape[0])]
    return [(slice(None), i) for i in range(weight.shape[1])]


def norm(values: Tensor) -> float:
    return math.sqrt(sum(v * v for v in values.flatten().tolist()))


def slow_map(weight: Tensor, cut: float, lasso: float | None = None) -> Tensor:
    u = torch.zeros_like(weight)
    for place in channels(weight):
        size = norm(weight[place])
        if size > cut:
            u[place] = weight[place] if lasso is None else weight[place] / size * max(size - lasso, 0.0)
    return u


@pytest.mark.parametrize(
    ("penalty", "threshold"), [("group-l0", math.sqrt(2 * 0.05 / 0.5)), ("group-lasso", 0.05 / 0.5)]
)
def test_the_loss_is_the_published_one(penalty: Any, threshold: float) -> None:
    """lambda2 sum ||w_g|| + (beta / 2) ||w - u||^2; its gradient lambda2 w_g / ||w_g|| + beta (w - u)."""
    pruner = Rgsm(penalty=penalty, lambda1=0.05, lambda2=0.3, beta=0.5, threshold="published")
    model = dense_cases.EveryKind()
    pruner.attach(model, Budget(0.5))
    weights = dense_weights(model)
    assert pruner.whole == {"first.weight"}
    loss, u = 0.0, {}
    for name, w in weights.items():
        if name != "first.weight":
            u[name] = slow_map(w, threshold, threshold if penalty == "group-lasso" else None)
            loss += 0.3 * sum(norm(w[place]) for place in channels(w))
            loss += 0.25 * (w - u[name]).square().sum().item()
    found = pruner.penalty()
    assert found.item() == pytest.approx(loss, rel=1e-5)
    found.backward()
    for name, w in weights.items():
        gradient = pruner.weights[name].dense.grad
        if name == "first.weight":
            assert gradient is None
            continue
        expected = 0.5 * (w - u[name])
        for place in channels(w):
            expected[place] += 0.3 * w[place] / norm(w[place])
        torch.testing.assert_close(gradient, expected)
    with sparse_view(model):
        for name, seen in seen_weights(model).items():
            torch.testing.assert_close(seen, u.get(name, weights[name]))


@pytest.mark.parametrize("granularity", [CHANNEL, FILTER], ids=lambda g: g.name)
@pytest.mark.parametrize("distribution", ["uniform", "erk", "global", "lamp"])
@pytest.mark.parametrize("sparsity", [0, 0.5, 0.9])
def test_the_budget_is_met_in_whole_groups_beside_the_weight_that_stays(
    granularity: Any, distribution: str, sparsity: float
) -> None:
    model = dense_cases.EveryKind()
    budget = Budget(sparsity, distribution)
    pruner = Rgsm(granularity=granularity.name)
    pruner.attach(model, budget)
    weights = dense_weights(model)
    (whole,) = pruner.whole
    assert whole == {"channel": "first.weight", "filter": "fc.weight"}[granularity.name]
    keep = budget.keep({n: w for n, w in weights.items() if n != whole}, granularity)
    masks = pruner.finish()
    assert list(masks) == list(weights)
    for name, mask in masks.items():
        groups = granularity.norms(mask.float())
        size = mask.numel() // groups.numel()
        assert set(groups.square().round().flatten().tolist()) <= {0.0, float(size)}
        kept = int((groups > 0).sum())
        assert kept == keep.get(name, groups.numel()) > 0
        assert count_nonzero(model)[name].kept == kept * size
        assert torch.equal(seen_weights(model)[name], weights[name] * mask)


def test_the_groups_of_largest_l2_norm_stay() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4))
    pruner = Rgsm()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[3.0, 2.0, 0.1], [0.0, 2.0, 0.1], [0.0, 0.0, 0.1], [0.0, 0.0, 0.1]]))
    pruner.attach(model, Budget("2/3"))
    masks = pruner.finish()  # l2 norms 3, 2.83, 0.2; l1 norms 3, 4, 0.4
    assert masks["1.weight"][0].tolist() == [True, False, False]


@pytest.mark.parametrize("penalty", ["group-l0", "group-lasso"])
def test_u_meets_the_budget_when_an_epoch_ends_and_is_handed_over(penalty: Any) -> None:
    pruner = Rgsm(penalty=penalty)
    model, optimizer = begin(pruner, Budget(0.5))

    def check(progress: Progress) -> None:
        if progress.epoch_ends:
            with sparse_view(model):
                kept = {n: c.kept for n, c in count_nonzero(model).items()}
            assert kept == {"0.weight": 108, "3.weight": 4 * 2 * 9, "5.weight": 3 * 32}

    loop(model, pruner, optimizer, watch=check)
    with sparse_view(model):
        viewed = seen_weights(model)
    masks = pruner.finish()
    assert all(torch.equal(w, viewed[n]) for n, w in seen_weights(model).items())
    assert all(torch.equal(w != 0, masks[n]) for n, w in seen_weights(model).items())


def test_the_published_form_keeps_a_channel_of_every_layer() -> None:
    pruner = Rgsm(lambda1=1000.0, threshold="published")
    begin(pruner, Budget(0.1))
    masks = pruner.finish()
    kept = {n: int((CHANNEL.norms(m.float()) > 0).sum()) for n, m in masks.items()}
    assert kept == {"0.weight": 2, "3.weight": 1, "5.weight": 1}


@pytest.mark.parametrize("stop", [(1, 1), (2, 0)])
@pytest.mark.parametrize("options", [{"ramp": 0.9}, {"granularity": "filter", "penalty": "group-lasso"}])
def test_it_resumes_in_the_middle_of_an_epoch(stop: tuple[int, int], options: dict[str, Any]) -> None:
    assert dense_cases.resumed_equals_whole(lambda: Rgsm(**options), Budget(0.5, "global"), stop)


def test_training_makes_the_channels_that_go_dispensable_on_digits() -> None:
    budget = Budget(0.7)
    before = dense_cases.pretrained()
    dense_cases.digits_phase(before, Rgsm(), budget, 0)
    model = dense_cases.pretrained()
    validated = dense_cases.digits_phase(model, Rgsm(), budget, 12)
    assert validated[-1] > validated[0]  # the sparse network is what is validated
    assert dense_cases.robust(model) > dense_cases.robust(before) + 0.1
    counts = {n: c.kept / c.total for n, c in count_nonzero(model).items()}
    kept = {"0.weight": 1.0, "2.weight": 5 / 16, "5.weight": 10 / 32, "7.weight": 20 / 64}
    assert counts == kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": "l0"}, "penalty 'l0' is not known; allowed: group-l0, group-lasso"),
        ({"threshold": "fixed"}, "threshold 'fixed' is not known; allowed: target, published"),
        ({"lambda1": 0.0}, "lambda1 0 is not a positive number"),
        ({"lambda2": -1e-5}, "lambda2 -1e-05 is not a number from 0 on"),
        ({"beta": math.nan}, "beta nan is not a positive number"),
        ({"ramp": -0.1}, r"ramp -0.1 is not in \[0, 1\]"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rgsm(**options)


def test_what_cannot_be_grouped_is_refused() -> None:
    with pytest.raises(ModelError, match="no 'weight' form"):
        Rgsm(granularity="weight")
    with pytest.raises(ModelError, match="only prunable weight"):
        Rgsm().attach(torch.nn.Linear(4, 2), Budget(0.5))


def test_the_documented_recipes_are_valid() -> None:
    recipes = dense_cases.documented_recipes("rgsm.md")
    assert {r.pruning.method for r in recipes if r.pruning} == {"rgsm"}
