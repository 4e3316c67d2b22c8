"""LWM and HYDRA against hand-written mathematics, and the contract of all pruners."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from dense_cases import documented_recipes
from small_cases import batch, small_model
from torch import nn
from torch.nn import functional as F

from hedgerow.errors import ModelError
from hedgerow.objectives import Natural
from hedgerow.pruners import PRUNERS, FixedMask, Hydra, Magnitude, Pruner
from hedgerow.pruners.hydra import fan_in, random_scores, scaled_scores
from hedgerow.sparsity import (
    GRANULARITIES,
    WEIGHT,
    Budget,
    count_nonzero,
    prunable_weights,
    separate_units,
    shared_weights,
    total_count,
)


def test_magnitude_keeps_the_largest_weights_of_every_layer() -> None:
    model = small_model()
    before = {n: w.dense.detach().clone() for n, w in prunable_weights(model).items()}
    pruner = Magnitude()
    pruner.attach(model, Budget(0.9))
    masks = pruner.finish()
    for name, weight in before.items():
        keep = weight.numel() - math.floor(0.9 * weight.numel() + 1e-9)
        expected = torch.zeros(weight.numel(), dtype=torch.bool)
        expected[weight.abs().flatten().sort(descending=True, stable=True).indices[:keep]] = True
        assert torch.equal(masks[name].flatten(), expected)
        assert torch.equal(prunable_weights(model)[name].dense, weight * masks[name])


@pytest.mark.parametrize(("granularity", "whole"), [("filter", "5.weight"), ("channel", "0.weight")])
def test_magnitude_removes_groups_but_neither_classes_nor_image_channels(granularity: str, whole: str) -> None:
    model = small_model()
    norms = {n: GRANULARITIES[granularity].scores(w.dense.abs()) for n, w in prunable_weights(model).items()}
    pruner = Magnitude(granularity=granularity)
    pruner.attach(model, Budget(0.5))
    masks = pruner.finish()
    assert masks[whole].all()
    for name in set(masks) - {whole}:
        kept = masks[name].float().amax(dim=[d for d, size in enumerate(norms[name].shape) if size == 1])
        flat = norms[name].flatten()
        assert kept.sum() == flat.numel() - flat.numel() // 2
        assert flat[kept.flatten().bool()].min() >= flat[~kept.flatten().bool()].max()


def test_magnitude_refuses_a_granularity_it_has_not() -> None:
    with pytest.raises(ModelError, match="no 'chanel' form"):
        Magnitude(granularity="chanel")


def test_fan_in_of_grouped_convolutions_and_linears() -> None:
    assert fan_in(nn.Conv2d(6, 4, 3, groups=2).weight) == 6 // 2 * 9
    assert fan_in(nn.Linear(64, 3).weight) == 64


def test_scaled_scores_are_the_papers_equation() -> None:
    weights = {"one": torch.tensor([[0.5, -2.0, 0.1, 1.0]]), "zero": torch.zeros(2, 3)}
    expected = [math.sqrt(6 / 4) * w / 2.0 for w in (0.5, -2.0, 0.1, 1.0)]
    scores = scaled_scores(weights, separate_units(weights, WEIGHT))
    assert scores["one"].flatten().tolist() == pytest.approx(expected)
    assert torch.equal(scores["zero"], torch.zeros(2, 3))


def test_random_scores_fill_their_range_and_depend_on_the_seed() -> None:
    weight = torch.empty(100, 25)
    scores = random_scores(weight, 3)
    assert scores.abs().max() <= 0.2
    assert scores.abs().max() > 0.19
    assert torch.equal(scores, random_scores(weight, 3))
    assert not torch.equal(scores, random_scores(weight, 4))


def test_hydra_starts_where_magnitude_ends() -> None:
    for sparsity in (0, 0.5, 0.9, 0.99):
        hydra, magnitude = Hydra(), Magnitude()
        hydra.attach(small_model(), Budget(sparsity))
        magnitude.attach(small_model(), Budget(sparsity))
        learned, fixed = hydra.finish(), magnitude.finish()
        assert all(torch.equal(learned[n], fixed[n]) for n in fixed)


def test_score_gradient_is_sign_times_weight_times_gradient_everywhere() -> None:
    """dL/ds = sign(s) * w * G with G = dL/d(w * m), from a twin whose effective weights are plain leaves."""
    x, y = batch()
    model = small_model().double()
    pruner = Hydra()
    pruner.attach(model, Budget(0.8))
    for scored in pruner.scored.values():  # signs of scores and weights must differ for the test to mean much
        with torch.no_grad():
            scored.scores[::2] *= -1
    F.cross_entropy(model(x.double()), y).backward()

    twin = small_model().double()
    effective = {}
    for name, weight in prunable_weights(twin).items():
        with torch.no_grad():
            weight.dense.mul_(pruner.scored[name].mask())
        effective[name] = weight.dense
    F.cross_entropy(twin(x.double()), y).backward()
    dense = {n: w.dense for n, w in prunable_weights(small_model().double()).items()}
    for name, scored in pruner.scored.items():
        expected = scored.scores.detach().sign() * dense[name].detach() * effective[name].grad
        torch.testing.assert_close(scored.scores.grad, expected)
        pruned = ~scored.mask()
        assert scored.scores.grad[pruned].abs().sum() > 0  # removed weights are told to come back


def test_one_sgd_step_on_scores_and_nothing_else_moves() -> None:
    x, y = batch()
    model = small_model()
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if "1." not in n}
    pruner = Hydra(train_norm=False)
    pruner.attach(model, Budget(0.5))
    optimizer = torch.optim.SGD(pruner.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    before = {n: s.scores.detach().clone() for n, s in pruner.scored.items()}
    with shared_weights(model):
        loss, _ = Natural()(model, x, y)
        loss.backward()
    gradients = {n: s.scores.grad.clone() for n, s in pruner.scored.items()}
    optimizer.step()
    for name, scored in pruner.scored.items():
        torch.testing.assert_close(scored.scores.detach(), before[name] - 0.1 * gradients[name])
        assert torch.equal(prunable_weights(model)[name].dense, frozen[name])
    assert all(p.grad is None for n, p in model.named_parameters() if "scores" not in n)


def test_normalisation_learns_beside_the_scores_only_when_asked() -> None:
    for train_norm, expected in ((True, {"1.weight", "1.bias"}), (False, set())):
        model = small_model()
        pruner = Hydra(train_norm=train_norm)
        pruner.attach(model, Budget(0.5))
        learning = {id(p) for group in pruner.parameters() for p in group["params"]}
        names = {n for n, p in model.named_parameters() if id(p) in learning and "scores" not in n}
        assert names == expected
        assert pruner.parameters()[0]["weight_decay"] == 0.0
    assert Hydra(score_decay=1e-4).score_decay == 1e-4


def test_hydra_gives_the_model_back_as_it_found_it() -> None:
    model = small_model()
    model[5].bias.requires_grad_(False)
    keys = list(model.state_dict())
    pruner = Hydra()
    pruner.attach(model, Budget(0.5))
    pruner.finish()
    assert list(model.state_dict()) == keys
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["5.bias"]


@pytest.mark.parametrize("init", ["random", "scaled"])
def test_hydra_learns_a_better_mask_than_its_start(init: str) -> None:
    x, y = batch()
    torch.manual_seed(0)
    model = small_model()
    pruner = Hydra(init=init, train_norm=False)
    pruner.attach(model, Budget(0.8))
    optimizer = torch.optim.SGD(pruner.parameters(), lr=0.5, momentum=0.9)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss, _ = Natural()(model, x, y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-10:]) < 0.9 * losses[0]


def test_an_unknown_initialisation_is_refused() -> None:
    with pytest.raises(ValueError, match="allowed: scaled, random"):
        Hydra(init="scale")  # type: ignore[arg-type]


@pytest.mark.parametrize(("page", "method"), [("magnitude.md", "magnitude"), ("hydra.md", "hydra")])
def test_the_documented_recipes_are_valid(page: str, method: str) -> None:
    recipes = documented_recipes(page)
    assert [r.pruning.method for r in recipes if r.pruning] == [method, method]


SETTINGS: dict[str, dict[str, Any]] = {"magnitude": {}, "hydra": {}}


@pytest.mark.parametrize("name", [n for n in PRUNERS if PRUNERS[n].images == 1])  # the others need images
@pytest.mark.parametrize("sparsity", [0, 0.5, 0.95])
def test_every_pruner_meets_its_budget_by_count(name: str, sparsity: float) -> None:
    model = small_model()
    pruner = PRUNERS[name](**SETTINGS.get(name, {}))
    budget = Budget(sparsity)
    pruner.attach(model, budget)
    keep = {n: w.dense.numel() for n, w in pruner.weights.items()}
    pruned = {n: w.dense for n, w in pruner.weights.items() if n not in pruner.whole}
    for n, groups in budget.keep(pruned, pruner.granularity).items():
        keep[n] = groups * pruned[n].numel() // pruner.granularity.count(pruned[n])
    masks = pruner.finish()
    kept = {n: int(m.sum()) for n, m in masks.items()}
    assert kept == keep or (pruner.learns_budget and sum(kept.values()) == sum(keep.values()))
    assert total_count(count_nonzero(model)).kept == sum(keep.values())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_removed_weights_stay_zero_under_momentum_and_decay(optimizer: str) -> None:
    x, y = batch()
    model = small_model()
    magnitude = Magnitude()
    magnitude.attach(model, Budget(0.7))
    masks = magnitude.finish()
    pruner: Pruner = FixedMask(masks)
    pruner.attach(model, Budget(0.7))
    groups = pruner.parameters()
    make = {
        "sgd": lambda: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01),
        "adamw": lambda: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1),
    }
    stepper = make[optimizer]()
    for _ in range(20):
        stepper.zero_grad()
        Natural()(model, x, y)[0].backward()
        stepper.step()
        for name, weight in pruner.weights.items():
            assert (weight.dense[~masks[name]] == 0).all()
    pruner.finish()
    for name, weight in prunable_weights(model).items():
        assert torch.equal(weight.dense != 0, masks[name])


def test_a_new_method_is_one_file_and_no_edit_elsewhere() -> None:
    """A toy method, registered here, is known to recipes at once and runs through the same hooks."""
    from hedgerow.recipe import parse_recipe
    from hedgerow.sparsity import topk_mask

    class Toy(Pruner):
        """Keep the first weights."""

        learns = False

        def __init__(self, *, backwards: bool = False) -> None:
            self.backwards = backwards

        def finish(self) -> dict[str, torch.Tensor]:
            masks = {}
            for name, keep in self.budget.keep({n: w.dense for n, w in self.weights.items()}).items():
                order = torch.arange(float(self.weights[name].dense.numel()))
                scores = order if self.backwards else -order
                masks[name] = topk_mask(scores.view_as(self.weights[name].dense), keep)
            return self.hand_over(masks)

    PRUNERS.register("toy")(Toy)
    try:
        recipe = parse_recipe({"name": "x", "pruning": {"method": "toy", "sparsity": 0.9, "backwards": True}})
        assert recipe.pruning is not None
        model = small_model()
        pruner = PRUNERS["toy"](backwards=True)  # type: ignore[call-arg]
        pruner.attach(model, Budget(0.5))
        assert pruner.finish()["5.weight"].flatten()[96:].all()
    finally:
        PRUNERS._parts.pop("toy")
