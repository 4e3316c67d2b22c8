"""ADMM against its equations done slowly."""

from __future__ import annotations

import itertools
import math

import dense_cases
import pytest
import torch
from dense_cases import begin, loop, seen_weights
from torch import Tensor

from hedgerow.errors import ModelError
from hedgerow.pruners import Progress, admm
from hedgerow.pruners.admm import Admm, augmented
from hedgerow.sparsity import (
    GRANULARITIES,
    WEIGHT,
    Budget,
    Granularity,
    count_nonzero,
    prunable_weights,
    separate_units,
    sparse_view,
)


def project(weight: Tensor, keep: int, granularity: Granularity) -> Tensor:
    weights = {"one": weight}
    return admm.project(weights, separate_units(weights, granularity), {"one": keep})["one"]


def nearest(weight: Tensor, keep: int, groups: list[Tensor]) -> Tensor:
    """Try every choice of `keep` groups (boolean masks); return the tensor at the smallest distance."""
    candidates = []
    for chosen in itertools.combinations(groups, keep):
        mask = torch.stack(chosen).any(dim=0)
        candidates.append(weight * mask)
    return min(candidates, key=lambda z: (weight - z).square().sum().item())


def groups_of(weight: Tensor, axes: tuple[int, ...]) -> list[Tensor]:
    groups = []
    for place in itertools.product(*(range(weight.shape[axis]) for axis in axes)):
        mask = torch.ones_like(weight, dtype=torch.bool)
        for axis, position in zip(axes, place, strict=True):
            index = torch.arange(weight.shape[axis]) == position
            mask &= index.view([-1 if i == axis else 1 for i in range(weight.dim())])
        groups.append(mask)
    return groups


@pytest.mark.parametrize(
    ("name", "axes", "shape"),
    [
        ("weight", (0, 1), (3, 3)),
        ("filter", (0,), (5, 2, 3, 3)),
        ("channel", (1,), (3, 5, 2)),
        ("kernel", (0, 1), (3, 2, 2, 2)),
        ("filter", (0,), (5, 4)),
        ("channel", (1,), (4, 5)),
    ],
)
def test_the_projection_is_the_nearest_tensor_with_so_many_groups(
    name: str, axes: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    groups = groups_of(weight, axes)
    for keep in range(1, len(groups) + 1):
        found = project(weight, keep, GRANULARITIES[name])
        assert torch.equal(found, nearest(weight, keep, groups))


def test_negative_weights_count_by_their_magnitude() -> None:
    weight = torch.tensor([[-3.0, 1.0, -0.5, 2.0]])
    assert project(weight, 2, WEIGHT).tolist() == [[-3.0, 0.0, 0.0, 2.0]]


def test_the_gradient_of_the_penalty_is_rho_times_the_gap() -> None:
    w, z, u = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    augmented(w, z, u, 0.3).backward()
    torch.testing.assert_close(w.grad, 0.3 * (w - z + u).detach())
    assert z.grad is None
    assert u.grad is None


def test_the_gradient_does_not_grow_with_the_number_of_dual_updates() -> None:
    pruner = Admm(rho=0.2, period=1)
    model, optimizer = begin(pruner, Budget(0.8))
    loop(model, pruner, optimizer, epochs=4)
    assert pruner.rho == pytest.approx(0.2 * 1.3**4)
    model.zero_grad()
    pruner.penalty().backward()
    for name, dual in pruner.dual.items():
        dense = pruner.weights[name].dense
        torch.testing.assert_close(dense.grad, pruner.rho * (dense.detach() - dual.z + dual.u))
        assert not dual.u.requires_grad
        assert dual.u.abs().sum() > 0


def test_z_u_and_rho_follow_the_published_updates() -> None:
    """Every second epoch Z = Pi(W + U), U = U + W - Z, rho *= 1.3, by loops over sorted magnitudes."""
    pruner = Admm(rho=0.05, period=2)
    model, optimizer = begin(pruner, Budget(0.75))
    start = dense_cases.dense_weights(model)
    kept = {n: w.numel() - 3 * w.numel() // 4 for n, w in start.items()}

    def pi(weight: Tensor, keep: int) -> Tensor:
        out = torch.zeros(weight.numel())
        for i in sorted(range(weight.numel()), key=lambda i: -weight.flatten()[i].abs().item())[:keep]:
            out[i] = weight.flatten()[i]
        return out.view_as(weight)

    z = {n: pi(w, kept[n]) for n, w in start.items()}
    u = {n: torch.zeros_like(w) for n, w in start.items()}
    rhos = [0.05]

    def check(progress: Progress) -> None:
        if progress.epoch_ends and progress.epoch % 2 == 1:
            for n, w in dense_cases.dense_weights(model).items():
                z[n] = pi(w + u[n], kept[n])
                u[n] = u[n] + w - z[n]
            rhos.append(rhos[-1] * 1.3)
        assert pruner.rho == rhos[-1]
        for n, dual in pruner.dual.items():
            torch.testing.assert_close(dual.z, z[n])
            torch.testing.assert_close(dual.u, u[n])

    loop(model, pruner, optimizer, epochs=5, watch=check)
    assert len(rhos) == 3


def test_the_period_is_a_tenth_of_the_phase_unless_it_is_given() -> None:
    for epochs, period, updates in ((20, None, 10), (5, None, 5), (39, None, 13), (20, 6, 3)):
        pruner = Admm(period=period)
        begin(pruner, Budget(0.5))
        for epoch in range(epochs):
            pruner.after_step(Progress(epoch, epochs, 0, 1))
        assert math.log(pruner.rho / 1e-3, 1.3) == pytest.approx(updates)


def test_the_penalty_at_the_start_is_the_distance_to_the_projection() -> None:
    pruner = Admm(rho=2.0)
    model, _ = begin(pruner, Budget(0.5))
    start = dense_cases.dense_weights(model)
    gaps = [(w - project(w, pruner.keep[n], WEIGHT)).square().sum().item() for n, w in start.items()]
    assert pruner.penalty().item() == pytest.approx(sum(gaps))
    none = Admm()
    begin(none, Budget(0))
    assert none.penalty().item() == 0.0


def test_training_sees_the_dense_network_and_validation_the_one_handed_over() -> None:
    pruner = Admm(rho=0.1, period=1)
    model, optimizer = begin(pruner, Budget(0.9))
    loop(model, pruner, optimizer)
    dense = dense_cases.dense_weights(model)
    assert all(torch.equal(seen_weights(model)[n], w) for n, w in dense.items())
    with sparse_view(model):
        sparse = seen_weights(model)
    masks = pruner.finish()
    for name, weight in dense_cases.dense_weights(model).items():
        assert torch.equal(weight, sparse[name])
        assert torch.equal(weight, dense[name] * masks[name])


def test_a_problem_with_a_known_solution_is_solved() -> None:
    """min ||W - A||^2 / 2 with 6 live weights of 30: W itself arrives at Pi(A), rho U at minus the gradient."""
    target = torch.randn(5, 6, generator=torch.Generator().manual_seed(3))
    pruner = Admm(rho=2.0, rho_growth=1.0, period=4)
    dense_cases.fit(pruner, target, Budget(0.8), epochs=80, steps=5)
    solution = project(target, 6, WEIGHT)
    torch.testing.assert_close(pruner.weights["weight"].dense.detach(), solution, atol=1e-3, rtol=0)
    torch.testing.assert_close(pruner.dual["weight"].u, (target - solution) / 2.0, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", [name for name in Admm.granularities if name in list(GRANULARITIES)])
@pytest.mark.parametrize("distribution", ["uniform", "erk", "global"])
def test_every_granularity_meets_its_budget_on_every_kind_of_layer(name: str, distribution: str) -> None:
    model = dense_cases.EveryKind()
    model.fc.weight.requires_grad_(False)
    pruner, granularity, budget = Admm(granularity=name), GRANULARITIES[name], Budget(0.6, distribution)
    pruner.attach(model, budget)
    whole = {"channel": {"first.weight"}, "filter": {"fc.weight"}}.get(name, set())
    assert pruner.whole == whole
    pruned = {n: w.dense.detach().clone() for n, w in pruner.weights.items() if n not in whole}
    keep = budget.keep(pruned, granularity)
    masks = pruner.finish()
    counts = count_nonzero(model)
    for n, mask in masks.items():
        groups = granularity.count(mask)
        kept = keep.get(n, groups)
        assert counts[n].kept == int(mask.sum()) == kept * mask.numel() // groups > 0
        assert all(mask[g].all() or not mask[g].any() for g in groups_of(mask, _axes(granularity.axes, mask)))
    assert not model.fc.weight.requires_grad
    assert model.first.weight.requires_grad


def _axes(axes: tuple[int, ...] | None, mask: Tensor) -> tuple[int, ...]:
    if axes is None:
        return tuple(range(mask.dim()))
    return (0,) if axes == (1,) and mask.shape[1] == 1 else axes


def test_a_single_layer_has_no_channel_to_lose() -> None:
    with pytest.raises(ModelError, match="only prunable weight"):
        Admm(granularity="channel").attach(torch.nn.Linear(4, 2), Budget(0.5))


def test_a_training_that_broke_is_left_for_the_loop_to_report() -> None:
    pruner = Admm(period=1)
    model, _ = begin(pruner, Budget(0.5))
    with torch.no_grad():
        prunable_weights(model)["0.weight"].dense[0] = math.nan
    pruner.after_step(Progress(0, 2, 2, 3))


@pytest.mark.parametrize("stop", [(1, 1), (2, 0), (3, 2)])
@pytest.mark.parametrize("distribution", ["uniform", "global"])
def test_it_resumes_in_the_middle_of_a_period(stop: tuple[int, int], distribution: str) -> None:
    budget = Budget(0.8, distribution)
    assert dense_cases.resumed_equals_whole(lambda: Admm(rho=0.1, period=2), budget, stop)


def test_it_beats_one_shot_magnitude_pruning_on_digits() -> None:
    budget = Budget(0.9)
    model = dense_cases.pretrained()
    validated = dense_cases.digits_phase(model, Admm(rho=0.02, period=1), budget, 12)
    assert validated[-1] > validated[0]  # the sparse network is what is validated
    assert dense_cases.robust(model) > dense_cases.magnitude_robust(budget) + 0.1
    assert all(c.kept == c.total - 9 * c.total // 10 for c in count_nonzero(model).values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": 0.0}, "rho 0 is not a positive number"),
        ({"rho": math.nan}, "rho nan is not a positive number"),
        ({"rho_growth": 0.5}, "rho_growth 0.5 is not a number from 1 on"),
        ({"period": 0}, "period 0 is not a number of epochs from 1 on"),
    ],
)
def test_bad_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Admm(**options)  # type: ignore[arg-type]


def test_an_unknown_granularity_is_refused() -> None:
    with pytest.raises(ModelError, match="no 'row' form"):
        Admm(granularity="row")


def test_the_documented_recipes_are_valid() -> None:
    recipes = dense_cases.documented_recipes("admm.md")
    assert [r.pruning.method for r in recipes if r.pruning] == ["admm"]
