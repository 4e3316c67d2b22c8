"""HARP against hand-written mathematics, and the schedule of its penalty."""

from __future__ import annotations

import math
import random
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_cases import batch, small_model
from torch import nn
from torch.nn import functional as F

from hedgerow.errors import ModelError
from hedgerow.pruners import Progress
from hedgerow.pruners.harp import Harp
from hedgerow.pruners.quotas import counted, density_of, quota_of, shrink, start_densities, through_quota
from hedgerow.pruners.resources import Cost, Resource
from hedgerow.sparsity import (
    WEIGHT,
    Budget,
    count_nonzero,
    prunable_weights,
    separate_units,
    sparse_view,
    total_count,
)

DOCS = Path(__file__).parents[2] / "docs" / "methods" / "harp.md"


def attached(model: nn.Module, sparsity: Any = 0.9, **options: Any) -> Harp:
    pruner = Harp(**options)
    pruner.attach(model, Budget(sparsity))
    return pruner


def set_densities(pruner: Harp, *densities: float) -> None:
    with torch.no_grad():
        for quota, density in zip(pruner.quotas.values(), densities, strict=True):
            share = (density - quota.least) / (1 - quota.least)
            quota.quota.fill_(math.log(share / (1 - share)))


def test_a_quota_is_a_density_between_its_least_and_one() -> None:
    for r in (-30.0, -1.0, 0.0, 2.5, 30.0):
        expected = 0.001 + 0.999 / (1 + math.exp(-r))
        assert density_of(torch.tensor(r, dtype=torch.float64), 0.001).item() == pytest.approx(expected, rel=1e-12)
    for density in (0.02, 0.1, 0.5, 0.9):
        r = torch.tensor(quota_of(density, 0.001), dtype=torch.float64)
        assert density_of(r, 0.001).item() == pytest.approx(density, rel=1e-12)


def test_the_start_is_clipped_at_both_ends_but_never_below_the_target() -> None:
    assert quota_of(0.0, 0.001) == pytest.approx(math.log(0.01 / 0.99))
    assert quota_of(1.0, 0.001) == pytest.approx(math.log(0.99 / 0.01))
    full = density_of(torch.tensor(quota_of(1.0, 0.1, highest=1.0), dtype=torch.float64), 0.1)
    assert math.isfinite(quota_of(1.0, 0.1, highest=1.0))
    assert counted(full.item(), 10_000_000) == 10_000_000


def test_counting_is_total_less_what_is_removed() -> None:
    assert [counted(k, 10) for k in (0.0, 0.05, 0.11, 0.5, 1.0)] == [1, 1, 2, 5, 10]
    assert counted(0.25, 7) == 7 - math.floor(0.75 * 7)


def test_through_the_quota_the_value_stays_and_the_gradient_is_the_layers_sum() -> None:
    weight, gradient = torch.randn(4, 5), torch.randn(4, 5)
    product = torch.where(weight.abs() > 1, weight, 0.0)
    density = torch.tensor(0.3, requires_grad=True)
    out = through_quota(product, weight, density)
    assert torch.equal(out, product)
    out.backward(gradient)
    expected = sum(w * g for w, g in zip(weight.flatten().tolist(), gradient.flatten().tolist(), strict=True))
    assert density.grad is not None
    assert density.grad.item() == pytest.approx(expected, rel=1e-5)


def test_gradients_of_quotas_and_scores_from_a_twin_with_plain_weights() -> None:
    """dL/dr = (1 - k_min) * sigmoid'(r) * sum_j w_j G_j and dL/ds = sign(s) * w * G, G = dL/d(w * m)."""
    x, y = batch()
    model = small_model().double()
    pruner = attached(model, 0.95, start_density=0.3)
    set_densities(pruner, 0.4, 0.2, 0.6)
    F.cross_entropy(model(x.double()), y).backward()

    twin = small_model().double()
    dense = {n: w.dense.detach().clone() for n, w in prunable_weights(twin).items()}
    for name, weight in prunable_weights(twin).items():
        flat = pruner.scored[name].scores.detach().abs().flatten()
        density = dict(zip(dense, (0.4, 0.2, 0.6), strict=True))[name]
        kept = flat.sort(descending=True).indices[: flat.numel() - math.floor((1 - density) * flat.numel())]
        mask = torch.zeros(flat.numel()).index_fill(0, kept, 1.0)
        with torch.no_grad():
            weight.dense.mul_(mask.view_as(weight.dense))
    F.cross_entropy(twin(x.double()), y).backward()
    for name, weight in prunable_weights(twin).items():
        quota, scores = pruner.quotas[name], pruner.scored[name].scores
        sigmoid = 1 / (1 + math.exp(-quota.quota.item()))
        total = float((dense[name] * weight.dense.grad).sum())
        assert quota.quota.grad is not None
        expected = (1 - 0.1 * 0.05) * sigmoid * (1 - sigmoid) * total
        assert quota.quota.grad.item() == pytest.approx(expected, rel=1e-9)
        torch.testing.assert_close(scores.grad, scores.detach().sign() * dense[name] * weight.dense.grad)
        assert prunable_weights(model)[name].dense.grad is None


def test_single_weights_use_the_mean_density_by_their_numbers() -> None:
    sizes, densities = [10, 90, 900], torch.tensor([0.5, 0.2, 0.03], requires_grad=True)
    listed = [Cost(size, ({str(i): 1.0},)) for i, size in enumerate(sizes)]
    found = Resource(listed, ["0", "1", "2"], like=densities).used(densities)
    assert found.item() == pytest.approx((10 * 0.5 + 90 * 0.2 + 900 * 0.03) / 1000)
    found.backward()
    assert densities.grad is not None
    assert densities.grad.tolist() == pytest.approx([n / 1000 for n in sizes])


def test_the_penalty_grows_with_the_epoch_and_stops_when_the_count_meets_the_target() -> None:
    pruner = attached(small_model(), 0.9, gamma=0.5)
    set_densities(pruner, 0.3, 0.3, 0.3)
    overshoot = 0.3 / 0.1 - 1
    for epoch in range(3):
        for step in range(2):
            assert pruner.penalty().item() == pytest.approx(0.5 * (epoch + 1) * overshoot, rel=1e-5)
            pruner.after_step(Progress(epoch, 9, step, 2))
    set_densities(pruner, 0.05, 0.05, 0.05)
    assert pruner.penalty().item() == 0
    pruner.after_step(Progress(3, 9, 0, 2))
    assert pruner.state_dict() == {"growth": 4, "met": False}  # in the middle of an epoch nothing is decided
    pruner.after_step(Progress(3, 9, 1, 2))
    assert pruner.state_dict() == {"growth": 4, "met": True}
    set_densities(pruner, 0.3, 0.3, 0.3)
    for epoch in range(4, 7):
        pruner.after_step(Progress(epoch, 9, 1, 2))
        assert pruner.penalty().item() == pytest.approx(0.5 * 4 * overshoot, rel=1e-5)


def test_the_target_is_met_by_count_and_not_by_the_real_valued_densities() -> None:
    pruner = attached(small_model(), 0.9)  # asked: 6 of 54, 11 of 108, 20 of 192
    assert pruner.asked == 37
    set_densities(pruner, 0.1044, 0.1044, 0.1044)
    assert 0.1044 * (54 + 108 + 192) < 37  # and yet 6 + 12 + 21 are kept
    pruner.after_step(Progress(0, 9, 0, 1))
    assert not pruner.met
    set_densities(pruner, 0.1019, 0.1018, 0.1041)
    pruner.after_step(Progress(1, 9, 0, 1))
    assert pruner.met


def test_quotas_start_where_asked() -> None:
    dense = {n: w.dense.detach() for n, w in prunable_weights(small_model()).items()}
    for shape in ("erk", "lamp"):
        keep = Budget(0.8, shape).keep(dense)
        found = start_densities(dense, separate_units(dense, WEIGHT), Fraction(1, 5), shape)
        assert found == {n: keep[n] / w.numel() for n, w in dense.items()}
        pruner = attached(small_model(), 0.99, start=shape, start_density=0.2)
        for name, quota in pruner.quotas.items():
            reachable = min(max(found[name], 0.001 + 0.999 * 0.01), 0.001 + 0.999 * 0.99)
            assert quota.density().item() == pytest.approx(reachable, rel=1e-5)
    assert [q.density().item() for q in attached(small_model(), 0.99).quotas.values()] == pytest.approx([0.1] * 3)
    assert [q.density().item() for q in attached(small_model(), 0.5).quotas.values()] == pytest.approx([0.5] * 3)


def test_shrinking_is_exact_proportional_and_bounded_below() -> None:
    assert shrink({"a": 3, "b": 4}, {"a": 1, "b": 1}, 7) == {"a": 3, "b": 4}
    assert shrink({"a": 30, "b": 60, "c": 2}, {"a": 1, "b": 1, "c": 2}, 20) == {"a": 6, "b": 12, "c": 2}
    assert shrink({"a": 5, "b": 5}, {"a": 5, "b": 1}, 6) == {"a": 5, "b": 1}
    with pytest.raises(ValueError, match="cannot keep 3 groups"):
        shrink({"a": 5, "b": 5}, {"a": 2, "b": 2}, 3)
    dice = random.Random(0)
    for _ in range(200):
        counts = {str(i): dice.randint(1, 1000) for i in range(dice.randint(1, 8))}
        least = {n: dice.randint(1, min(c, 40)) for n, c in counts.items()}
        target = dice.randint(sum(least.values()), sum(counts.values()))
        found = shrink(counts, least, target)
        assert sum(found.values()) == target
        assert all(least[n] <= found[n] <= counts[n] for n in counts)
        low, high = Fraction(0), Fraction(1)  # the common factor by bisection
        for _ in range(40):
            middle = (low + high) / 2
            total = sum(max(Fraction(least[n]), middle * c) for n, c in counts.items())
            low, high = (middle, high) if total < target else (low, middle)
        assert all(abs(found[n] - max(least[n], float(low * c))) < 1.001 for n, c in counts.items())


@pytest.mark.parametrize("distribution", ["uniform", "erk", "global", "lamp"])
@pytest.mark.parametrize("sparsity", [0, "1/3", 0.9, 0.999])
def test_finished_masks_have_the_asked_total_from_any_densities_above_it(distribution: str, sparsity: Any) -> None:
    torch.manual_seed(0)
    for seed in range(3):
        model = small_model(seed)
        pruner = Harp()
        pruner.attach(model, Budget(sparsity, distribution))
        with torch.no_grad():
            for quota in pruner.quotas.values():
                quota.quota.add_(3 * torch.rand(()))
        masks = pruner.finish()
        assert sum(int(mask.sum()) for mask in masks.values()) == pruner.asked
        assert total_count(count_nonzero(model)).kept == pruner.asked
        assert all(mask.any() for mask in masks.values())


def test_fewer_learned_than_asked_stay_fewer() -> None:
    pruner = attached(small_model(), 0.5)
    set_densities(pruner, 0.2, 0.3, 0.1)
    counts = [quota.count() for quota in pruner.quotas.values()]
    assert [int(m.sum()) for m in pruner.finish().values()] == counts
    assert sum(counts) < pruner.asked


def test_the_view_that_is_validated_is_the_network_that_would_be_handed_over() -> None:
    x, _ = batch()
    model = small_model().eval()
    pruner = attached(model, 0.95, start_density=0.6)
    model.eval()
    pruner.after_step(Progress(0, 2, 0, 1))
    with torch.no_grad(), sparse_view(model):
        viewed = model(x)
        assert total_count(count_nonzero(model)).kept == pruner.asked
    with torch.no_grad():
        assert not torch.equal(model(x), viewed)  # training still works at the learned densities
        pruner.finish()
        assert torch.equal(model(x), viewed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "rate"}, "allowed: both, rates, scores"),
        ({"start": "global"}, "allowed: uniform, erk, lamp"),
        ({"start_density": 0}, r"start_density 0 is not in \(0, 1\]"),
        ({"resource": "bytes"}, "resource 'bytes' is not known; allowed: parameters, flops"),
        ({"gamma": -1}, "gamma -1 is not"),
        ({"gamma": math.nan}, "gamma nan is not"),
        ({"min_share": 1}, r"min_share 1 is not in \[0, 1\)"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Harp(**options)
    with pytest.raises(ModelError, match="no '2:4' form"):
        Harp(granularity="2:4")


def test_the_recipe_of_the_manual_is_valid() -> None:
    from hedgerow.recipe import parse_recipe

    (snippet,) = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    recipe = parse_recipe(yaml.safe_load(snippet))
    assert recipe.pruning is not None
    assert recipe.pruning.method == "harp"
