"""RVSM against its equations done slowly."""

from __future__ import annotations

import math
from typing import Any

import dense_cases
import pytest
import torch
from dense_cases import begin, dense_weights, loop, seen_weights, small_model
from torch.nn import functional as F

from hedgerow.errors import ModelError
from hedgerow.pruners import Dense, Progress
from hedgerow.pruners.rvsm import Rvsm
from hedgerow.pruners.splitting import scheduled_share
from hedgerow.sparsity import Budget, count_nonzero, kept_count, shared_weights, sparse_view


def hard(weight: torch.Tensor, threshold: float) -> torch.Tensor:
    values = [w if abs(w) > threshold else 0.0 for w in weight.flatten().tolist()]
    return torch.tensor(values).view_as(weight)


def soft(weight: torch.Tensor, threshold: float) -> torch.Tensor:
    values = [math.copysign(max(abs(w) - threshold, 0.0), w) for w in weight.flatten().tolist()]
    return torch.tensor(values).view_as(weight)


@pytest.mark.parametrize(("penalty", "lambda1", "map_"), [("l0", 2e-3, hard), ("l1", 0.05, soft)])
def test_every_step_is_the_published_one(penalty: Any, lambda1: float, map_: Any) -> None:
    """u = prox(w), w <- w - lr (grad L + beta (w - u)), the threshold sqrt(2 lambda / beta) or lambda / beta."""
    beta, lr = 0.5, 0.1
    threshold = math.sqrt(2 * lambda1 / beta) if penalty == "l0" else lambda1 / beta
    pruner = Rvsm(penalty=penalty, lambda1=lambda1, beta=beta, threshold="published")
    model = small_model()
    pruner.attach(model, Budget(0.5))
    optimizer = torch.optim.SGD(pruner.parameters(), lr=lr)
    w = dense_weights(model)
    for step, (x, y) in enumerate(dense_cases.batches(0)):
        twin = small_model()
        twin.load_state_dict(dict(zip(twin.state_dict(), model_state(model), strict=True)))
        F.cross_entropy(twin(x), y).backward()
        gradients = {n: p.grad for n, p in twin.named_parameters() if n in w}
        for n, gradient in gradients.items():
            w[n] = w[n] - lr * (gradient + beta * (w[n] - map_(w[n], threshold)))
        optimizer.zero_grad()
        with shared_weights(model):
            (F.cross_entropy(model(x), y) + pruner.penalty()).backward()
        optimizer.step()
        pruner.after_step(Progress(0, 2, step, 5))
        for n, weight in dense_weights(model).items():
            torch.testing.assert_close(weight, w[n])
            w[n] = weight
        with sparse_view(model):
            for n, u in seen_weights(model).items():
                torch.testing.assert_close(u, map_(w[n], threshold))


def model_state(model: torch.nn.Module) -> list[torch.Tensor]:
    plain = small_model().state_dict()
    own = {k.replace("parametrizations.", "").replace(".original", ""): t for k, t in model.state_dict().items()}
    return [own[name] for name in plain]


def test_the_published_threshold_is_one_for_all_layers_and_spares_the_last_weight() -> None:
    model = small_model()
    weights = dense_weights(model)
    largest = {n: w.abs().max().item() for n, w in weights.items()}
    threshold = sorted(largest.values())[1] * 1.001  # above every weight of two layers
    pruner = Rvsm(lambda1=0.3 * threshold**2 / 2, beta=0.3, threshold="published")
    pruner.attach(model, Budget(0.1))
    with sparse_view(model):
        viewed = seen_weights(model)
    masks = pruner.finish()
    counts = {n: int((w.abs() > threshold).sum()) for n, w in weights.items()}
    assert sorted(counts.values())[:2] == [0, 0]
    assert {n: int(m.sum()) for n, m in masks.items()} == {n: max(1, c) for n, c in counts.items()}
    for n, u in seen_weights(model).items():
        assert torch.equal(u, viewed[n])
        assert torch.equal(u, weights[n] * masks[n])


def test_the_papers_settings_give_the_papers_threshold() -> None:
    pruner = Rvsm(lambda1=1e-6, beta=0.01, threshold="published")
    begin(pruner, Budget(0.5))
    assert all(split.cut.item() == pytest.approx(0.0141, abs=5e-5) for split in pruner.split.values())


@pytest.mark.parametrize("penalty", ["l0", "l1", "transformed-l1"])
@pytest.mark.parametrize("distribution", ["uniform", "erk", "global"])
def test_u_meets_the_budget_when_an_epoch_ends(penalty: Any, distribution: str) -> None:
    budget = Budget(0.8, distribution)
    pruner = Rvsm(penalty=penalty, lambda1=1e-2, beta=0.5)
    model, optimizer = begin(pruner, budget)

    def check(progress: Progress) -> None:
        if progress.epoch_ends:
            with sparse_view(model):
                kept = {n: c.kept for n, c in count_nonzero(model).items()}
            assert kept == budget.keep(dense_weights(model))

    loop(model, pruner, optimizer, watch=check)
    with sparse_view(model):
        viewed = seen_weights(model)
    masks = pruner.finish()
    for n, weight in seen_weights(model).items():
        assert torch.equal(weight, viewed[n])  # u itself is handed over
        assert torch.equal(weight != 0, masks[n])


def test_within_an_epoch_u_follows_w_by_the_same_cut() -> None:
    pruner = Rvsm(beta=0.5)
    model, optimizer = begin(pruner, Budget(0.8))
    loop(model, pruner, optimizer, stop=(1, 2))
    expected = 0.0
    for n, w in dense_weights(model).items():
        expected += 0.25 * (w - hard(w, pruner.split[n].cut.item())).square().sum().item()
    assert pruner.penalty().item() == pytest.approx(expected)


def test_a_global_budget_is_one_threshold() -> None:
    model = small_model()
    pruner = Rvsm()
    pruner.attach(model, Budget(0.7, "global"))
    weights = dense_weights(model)
    masks = pruner.finish()
    removed = max(w[~masks[n]].abs().max().item() for n, w in weights.items())
    assert removed < min(w[masks[n]].abs().min().item() for n, w in weights.items())


def test_the_target_form_shrinks_by_the_penalty_but_never_below_the_budget() -> None:
    for lambda1 in (1e-3, 10.0):  # a threshold below, and one far above what the budget removes
        pruner = Rvsm(penalty="l1", lambda1=lambda1, beta=0.5)
        model, _ = begin(pruner, Budget(0.5))
        weights = dense_weights(model)
        pruner.finish()
        for n, u in seen_weights(model).items():
            ordered = sorted(weights[n].abs().flatten().tolist())
            kept = kept_count(len(ordered), Budget(0.5).sparsity)
            cut = ordered[len(ordered) - kept - 1]
            live = u != 0
            assert int(live.sum()) == kept
            expected = soft(weights[n], min(lambda1 / 0.5, cut))
            torch.testing.assert_close(u[live], expected[live])


@pytest.mark.parametrize("penalty", ["l0", "l1", "transformed-l1"])
def test_nothing_to_remove_is_dense_training_bit_for_bit(penalty: Any) -> None:
    ends = []
    for pruner in (Rvsm(penalty=penalty, beta=0.5), Dense()):
        model, optimizer = begin(pruner, Budget(0))
        loop(model, pruner, optimizer)
        pruner.finish()
        ends.append(model.state_dict())
    assert list(ends[0]) == list(ends[1])
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_ramp_rises_to_the_budget() -> None:
    assert scheduled_share(0.0, 0.0) == 1.0
    assert scheduled_share(0.0, 0.5) == 0.0
    assert scheduled_share(0.25, 0.5) == 1 - 0.5**3
    assert scheduled_share(0.5, 0.5) == scheduled_share(0.7, 0.5) == 1.0
    pruner = Rvsm(ramp=0.75)
    model, optimizer = begin(pruner, Budget(0.8))

    def check(progress: Progress) -> None:
        if not progress.epoch_ends:
            return
        share = 1 - (1 - min(1.0, (progress.epoch + 1) / 3)) ** 3
        for n, w in dense_weights(model).items():
            kept = int((w.abs() > pruner.split[n].cut).sum())
            assert abs(kept - (1 - 0.8 * share) * w.numel()) < 1
            assert int((w.abs() > pruner.split[n].final).sum()) == kept_count(w.numel(), Budget(0.8).sparsity)

    assert pruner.penalty().item() == 0.0
    loop(model, pruner, optimizer, watch=check)


def test_a_problem_with_a_known_solution_is_solved() -> None:
    """min ||w - a||^2 / 2 + (beta / 2) ||w - u||^2: kept weights arrive at a, the others at a / (1 + beta)."""
    target = torch.randn(5, 6, generator=torch.Generator().manual_seed(3))
    pruner = Rvsm(beta=0.5)
    dense_cases.fit(pruner, target, Budget(0.8), epochs=20, steps=5)
    kept = hard(target, sorted(target.abs().flatten().tolist())[-7])
    expected = torch.where(kept != 0, kept, target / 1.5)
    torch.testing.assert_close(pruner.weights["weight"].dense.detach(), expected)
    pruner.finish()
    assert int((kept != 0).sum()) == 6
    torch.testing.assert_close(pruner.weights["weight"].dense.detach(), kept)


@pytest.mark.parametrize("stop", [(1, 1), (2, 0)])
@pytest.mark.parametrize(
    "options", [{"ramp": 0.9}, {"penalty": "transformed-l1"}, {"threshold": "published", "lambda1": 2e-3}]
)
def test_it_resumes_in_the_middle_of_an_epoch(stop: tuple[int, int], options: dict[str, Any]) -> None:
    budget = Budget(0.8, "global")
    assert dense_cases.resumed_equals_whole(lambda: Rvsm(beta=0.5, **options), budget, stop)


@pytest.mark.parametrize("penalty", ["l0", "l1"])
def test_it_beats_one_shot_magnitude_pruning_on_digits(penalty: Any) -> None:
    budget = Budget(0.9)
    model = dense_cases.pretrained()
    validated = dense_cases.digits_phase(model, Rvsm(penalty=penalty, beta=0.5), budget, 12)
    assert validated[-1] > validated[0]  # the sparse network is what is validated
    assert dense_cases.robust(model) > dense_cases.magnitude_robust(budget) + 0.1
    assert all(c.kept == c.total - 9 * c.total // 10 for c in count_nonzero(model).values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": "l2"}, "penalty 'l2' is not known; allowed: l0, l1, transformed-l1"),
        ({"threshold": "global"}, "threshold 'global' is not known; allowed: target, published"),
        ({"lambda1": -1.0}, "lambda1 -1 is not a positive number"),
        ({"beta": 0.0}, "beta 0 is not a positive number"),
        ({"transform_a": math.inf}, "transform_a inf is not a positive number"),
        ({"ramp": 1.5}, r"ramp 1.5 is not in \[0, 1\]"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rvsm(**options)


def test_an_unknown_granularity_is_refused() -> None:
    with pytest.raises(ModelError, match="no 'channel' form"):
        Rvsm(granularity="channel")


def test_the_documented_recipes_are_valid() -> None:
    recipes = dense_cases.documented_recipes("rvsm.md")
    assert {r.pruning.method for r in recipes if r.pruning} == {"rvsm"}
