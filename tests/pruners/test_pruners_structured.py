"""ADMM, RVSM and RGSM on groups against their equations: patterns, blocks and channels that layers share."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
import unit_cases
from dense_cases import begin, dense_weights, fit, loop, seen_weights
from torch import Tensor
from unit_cases import EXAMPLE, Group, all_groups, coupled, largest_half, norm, values

from hedgerow.pruners import Hydra, Progress
from hedgerow.pruners.admm import Admm
from hedgerow.pruners.rgsm import Rgsm
from hedgerow.pruners.rvsm import Rvsm
from hedgerow.sparsity import Budget, sparse_view

HALF = Budget("1/2")


@pytest.fixture(autouse=True)
def _one_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    unit_cases.trace_once(monkeypatch)


def test_a_copy_of_a_model_that_is_being_pruned_stands_on_its_own() -> None:
    for pruner in (Hydra(granularity="channel"), Rgsm()):
        model, _ = begin(pruner, HALF, network=coupled, example=EXAMPLE)
        twin = copy.deepcopy(model).eval()
        with sparse_view(twin), torch.no_grad():
            before = twin(EXAMPLE)
            for parameter in model.parameters():
                parameter.normal_()
            assert torch.equal(twin(EXAMPLE), before)


@pytest.mark.parametrize("form", ["channel", "filter"])
def test_admm_projects_to_the_nearest_network_with_so_many_channels(form: str) -> None:
    pruner = Admm(granularity=form)
    pruner.attach(coupled(), HALF, example=EXAMPLE)
    weights = pruner.dense_values()
    found = {name: dual.z for name, dual in pruner.dual.items()}
    for groups in all_groups(form).values():
        distances = {
            chosen: sum(norm(weights, g) ** 2 for i, g in enumerate(groups) if i not in chosen)
            for chosen in itertools.combinations(range(len(groups)), len(groups) // 2)
        }
        best = min(distances, key=lambda chosen: distances[chosen])
        for i, group in enumerate(groups):
            assert values(found, group) == (values(weights, group) if i in best else [0.0] * len(group))


def test_admm_keeps_the_pattern_in_z_and_follows_its_updates() -> None:
    pruner = Admm(granularity="2:4", rho=0.05, period=1)
    model, optimizer = begin(pruner, HALF, network=coupled, example=EXAMPLE)
    seen: dict[str, tuple[Tensor, Tensor]] = {n: (d.z.clone(), d.u.clone()) for n, d in pruner.dual.items()}

    def check(progress: Progress) -> None:
        if not progress.epoch_ends:
            return
        dense = dense_weights(model)
        for name, groups in all_groups("2:4").items():
            u, target = seen[name][1], dense[name] + seen[name][1]
            z = torch.zeros_like(target)
            for group in groups:
                stay, _ = largest_half(group, target)
                z.view(-1)[stay] = target.flatten()[stay]
            torch.testing.assert_close(pruner.dual[name].z, z)
            torch.testing.assert_close(pruner.dual[name].u, u + dense[name] - z)
            seen[name] = (pruner.dual[name].z.clone(), pruner.dual[name].u.clone())

    loop(model, pruner, optimizer, epochs=3, watch=check)


@pytest.mark.parametrize("penalty", ["l0", "l1"])
def test_rvsm_keeps_the_pattern_in_every_step(penalty: Any) -> None:
    """u: of every four the two largest, shrunk (l1) by lambda / beta, by no more than the largest removed."""
    limit = 0.02 if penalty == "l1" else 0.0
    pruner = Rvsm(granularity="2:4", penalty=penalty, beta=0.5, lambda1=0.01)
    model, optimizer = begin(pruner, HALF, network=coupled, example=EXAMPLE)

    def slow_u(w: Tensor, groups: list[Group]) -> Tensor:
        u = torch.zeros_like(w)
        for group in groups:
            stay, removed = largest_half(group, w)
            kept = w.flatten()[stay]
            u.view(-1)[stay] = kept.sign() * (kept.abs() - min(limit, removed))
        return u

    def check(_: Progress) -> None:
        dense = dense_weights(model)
        expected = {name: slow_u(dense[name], groups) for name, groups in all_groups("2:4").items()}
        with sparse_view(model):
            for name, u in seen_weights(model).items():
                torch.testing.assert_close(u, expected[name])
        gap = sum((dense[n] - expected[n]).square().sum().item() for n in dense)
        assert pruner.penalty().item() == pytest.approx(0.25 * gap, rel=1e-4)

    loop(model, pruner, optimizer, epochs=2, watch=check)


def test_rvsm_solves_a_problem_with_a_pattern() -> None:
    """min ||w - a||^2 / 2 + (beta / 2) ||w - u||^2: kept weights arrive at a, the others at a / (1 + beta)."""
    target = torch.randn(3, 8, generator=torch.Generator().manual_seed(3))
    pruner = Rvsm(granularity="2:4", beta=0.5)
    fit(pruner, target, HALF, epochs=20, steps=5)
    kept = torch.zeros_like(target, dtype=torch.bool)
    for row, block in itertools.product(range(3), range(2)):
        best = target[row, 4 * block : 4 * block + 4].abs().topk(2).indices + 4 * block
        kept[row, best] = True
    expected = torch.where(kept, target, target / 1.5)
    torch.testing.assert_close(pruner.weights["weight"].dense.detach(), expected)
    assert torch.equal(pruner.finish()["weight"], kept)


def test_rvsm_on_blocks_thresholds_their_norms() -> None:
    pruner = Rvsm(granularity="block-4x1", threshold="published", lambda1=0.02, beta=0.5)
    model, _ = begin(pruner, HALF, network=coupled, example=EXAMPLE)
    weights = dense_weights(model)
    published = math.sqrt(2 * 0.02 / 0.5)
    with sparse_view(model):
        u = seen_weights(model)
    removed = 0
    for groups in all_groups("block-4x1").values():
        threshold = min(published, sorted(norm(weights, group) for group in groups)[-2])  # one always stays
        for group in groups:
            gone = norm(weights, group) <= threshold
            removed += gone
            assert values(u, group) == ([0.0] * len(group) if gone else values(weights, group))
    assert removed > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"threshold": "published"},
            "threshold published: it removes what lies under one threshold, and 2:4 keeps",
        ),
        ({"ramp": 0.5}, "ramp 0.5: 2:4 has no sparsity below its own; leave ramp at 0"),
    ],
)
def test_what_contradicts_a_pattern_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rvsm(granularity="2:4", **options)


@pytest.mark.parametrize("form", ["channel", "filter", "kernel", "block-4x1"])
def test_rgsm_has_the_published_loss_on_groups_of_any_kind(form: str) -> None:
    pruner = Rgsm(granularity=form, lambda1=0.05, lambda2=0.3, beta=0.5, threshold="published")
    model = coupled().double()
    pruner.attach(model, HALF, example=EXAMPLE)
    weights = dense_weights(model)
    published, loss = math.sqrt(2 * 0.05 / 0.5), 0.0
    expected = {name: torch.zeros_like(w) for name, w in weights.items()}
    for groups in all_groups(form).values():
        cut = min(published, sorted(norm(weights, group) for group in groups)[-2])  # one always stays
        for group in groups:
            size = norm(weights, group)
            gone = size <= cut
            loss += 0.3 * size + (0.25 * size**2 if gone else 0.0)
            for name, i in group:
                w = weights[name].flatten()[i]
                expected[name].view(-1)[i] = 0.3 * w / size + (0.5 * w if gone else 0.0)
    found = pruner.penalty()
    assert found.item() == pytest.approx(loss)
    found.backward()
    for name, weight in pruner.weights.items():
        gradient = weight.dense.grad
        torch.testing.assert_close(
            torch.zeros_like(weights[name]) if gradient is None else gradient, expected[name]
        )
