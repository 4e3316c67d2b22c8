"""HARP on groups: quotas of channels that layers share, what a network costs, and when the target is met."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
import unit_cases
from dense_cases import batches, begin, dense_weights, loop, seen_weights
from small_cases import small_model
from torch import Tensor, nn
from torch.nn import functional as F
from unit_cases import EXAMPLE, Group, all_groups, coupled

from hedgerow.compact import shrink
from hedgerow.errors import ModelError
from hedgerow.pruners import Hydra, Progress
from hedgerow.pruners.harp import Harp
from hedgerow.pruners.resources import counted_share
from hedgerow.sparsity import Budget, Masks, prunable_weights, replaced_weights
from hedgerow.tracing import flops, trace

# Dense FLOPs of `Coupled`, by hand: 2 * positions * outputs * inputs * kernel. s: stream, i: inside the block.
STEM, INNER, OUTER = 2 * 64 * 6 * 2 * 9, 2 * 64 * 4 * 6 * 9, 2 * 64 * 6 * 4 * 9
DEPTHWISE, FC = 2 * 9 * 6 * 1 * 9, 2 * 3 * 54
PARAMETERS = (6 * 2 * 9, 4 * 6 * 9, 6 * 4 * 9, 6 * 9, 3 * 54)


@pytest.fixture(autouse=True)
def _one_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    unit_cases.trace_once(monkeypatch)


def attached(form: str = "channel", sparsity: Any = "0.6", **options: Any) -> Harp:
    pruner = Harp(granularity=form, **options)
    pruner.attach(coupled().double(), Budget(sparsity), example=EXAMPLE)
    return pruner


def set_densities(pruner: Harp, *densities: float) -> None:
    with torch.no_grad():
        for quota, density in zip(pruner.quotas.values(), densities, strict=True):
            share = (density - quota.least) / (1 - quota.least)
            quota.quota.fill_(math.log(share / (1 - share)))


def live_groups(form: str, masks: Masks) -> dict[str, int]:
    """How many groups live; every one lives or dies as a whole."""
    found = {}
    for name, groups in all_groups(form).items():
        alive = [{bool(masks[weight].flatten()[i]) for weight, i in group} for group in groups]
        assert all(len(each) == 1 for each in alive)
        found[name] = sum(each == {True} for each in alive)
    return found


def by_hand(s: float, i: float, layers: tuple[int, ...] = (STEM, INNER, OUTER, DEPTHWISE, FC)) -> float:
    stem, inner, outer, depthwise, fc = layers
    return (stem * s + inner * s * i + outer * i * s + depthwise * s + fc * s) / sum(layers)


@pytest.mark.parametrize("form", ["channel", "filter"])
def test_layers_that_share_channels_have_one_quota(form: str) -> None:
    pruner = attached(form)
    assert len(pruner.quotas) == 2
    kept = [key for key in pruner.model.state_dict() if key.endswith("quota")]
    assert len(kept) == 2
    (scores, norm, quotas) = pruner.parameters()
    assert [p.numel() for p in quotas["params"]] == [1, 1]
    assert quotas["weight_decay"] == 0
    assert len(scores["params"]) == 4
    assert norm["params"]


@pytest.mark.parametrize("form", ["channel", "filter", "kernel", "block-4x1"])
def test_the_gradient_of_a_quota_is_a_finite_difference(form: str) -> None:
    """dL/dk is the slope of the loss when all entries w_j of the unit's groups come in by a hair, w m + h w.

    But for the depthwise layer in the channel form, which passes on what others lose, and is never masked.
    """
    pruner = attached(form)
    set_densities(pruner, *torch.linspace(0.35, 0.7, len(pruner.quotas)).tolist())
    model, dense, seen = pruner.model, dense_weights(pruner.model), seen_weights(pruner.model)
    torch.nn.init.normal_(model.norm.bias)  # at 0 a filter that is gone would lie on the kink of its ReLU
    x, y = batches(0)[0]
    F.cross_entropy(model(x.double()), y).backward()
    groups = {name: sum(each, start=Group()) for name, each in all_groups(form).items()}
    for unit, entries in zip(pruner.quotas, groups.values(), strict=True):
        losses = []
        for step in (1e-6, -1e-6):
            values = {name: w.clone() for name, w in seen.items()}
            for name, i in entries:
                if not (form == "channel" and name == "depthwise.weight"):
                    values[name].view(-1)[i] += step * dense[name].flatten()[i]
            with replaced_weights(model, {n: v for n, v in values.items() if n in pruner.scored}), torch.no_grad():
                losses.append(F.cross_entropy(model(x.double()), y).item())
        quota = pruner.quotas[unit]
        sigmoid = 1 / (1 + math.exp(-quota.quota.item()))
        expected = (1 - 0.1 * 0.4) * sigmoid * (1 - sigmoid) * (losses[0] - losses[1]) / 2e-6
        assert quota.quota.grad is not None
        assert quota.quota.grad.item() == pytest.approx(expected, rel=1e-5, abs=1e-9)
        assert quota.quota.grad != 0


@pytest.mark.parametrize("form", ["channel", "filter"])
@pytest.mark.parametrize("resource", ["flops", "parameters", None])
def test_what_a_residual_network_costs_is_as_counted_by_hand(form: str, resource: Any) -> None:
    pruner = attached(form, resource=resource)
    layers = PARAMETERS if resource == "parameters" else (STEM, INNER, OUTER, DEPTHWISE, FC)
    for s, i in ((1.0, 1.0), (0.5, 1.0), (0.3, 0.8), (0.05, 0.2)):
        densities = torch.tensor([s, i], dtype=torch.float64, requires_grad=True)
        used = pruner.resource.used(densities)
        assert used.item() == pytest.approx(by_hand(s, i, layers), rel=1e-12)
        used.backward()
        slopes = [
            (by_hand(s + h, i + k, layers) - by_hand(s - h, i - k, layers)) / 2e-5
            for h, k in ((1e-5, 0.0), (0.0, 1e-5))
        ]
        assert densities.grad is not None
        assert densities.grad.tolist() == pytest.approx(slopes, rel=1e-8)
    assert pruner.allowed == pytest.approx(by_hand(0.4, 0.4, layers))


def test_flops_of_the_network_that_is_left_are_those_of_the_penalty() -> None:
    pruner = attached()
    set_densities(pruner, 0.45, 0.7)
    counted = torch.tensor([q.count() / q.total for q in pruner.quotas.values()], dtype=torch.float64)
    assert counted.tolist() == [3 / 6, 3 / 4]
    pruner.asked = 6
    model = pruner.model
    masks = pruner.finish()
    assert live_groups("channel", masks) == {"stream": 3, "inside": 3}
    model.float().eval()
    small = shrink(model, EXAMPLE).model
    left = flops(trace(small, EXAMPLE), small).dense
    assert left == pytest.approx(pruner.resource.used(counted).item() * (STEM + INNER + OUTER + DEPTHWISE + FC))


def test_the_penalty_is_the_larger_of_the_cost_and_the_count() -> None:
    pruner = attached(gamma=0.5)  # asked: 3 of 6 and 2 of 4 channels; FLOPs of a density of 0.4
    set_densities(pruner, 0.5, 0.5)
    cost = by_hand(0.5, 0.5) / by_hand(0.4, 0.4) - 1
    assert pruner.penalty().item() == pytest.approx(0.5 * cost)
    set_densities(pruner, 0.2, 0.95)
    assert by_hand(0.2, 0.95) < by_hand(0.4, 0.4)
    penalty = pruner.penalty()
    assert penalty.item() == pytest.approx(0.5 * ((2 + 4) / 5 - 1))
    penalty.backward()
    for quota, total in zip(pruner.quotas.values(), (6, 4), strict=True):
        sigmoid = quota.quota.detach().sigmoid().item()
        assert quota.quota.grad.item() == pytest.approx(0.5 * total / 5 * 0.96 * sigmoid * (1 - sigmoid))
    set_densities(pruner, 0.33, 0.45)
    assert pruner.penalty().item() == 0


def test_the_counted_share_has_the_gradient_of_the_densities() -> None:
    densities = torch.tensor([0.21, 0.5], dtype=torch.float64, requires_grad=True)
    found = counted_share(densities, [3, 5], [10, 9], 4)
    assert found.item() == pytest.approx(2.0)
    found.backward()
    assert densities.grad is not None
    assert densities.grad.tolist() == [2.5, 2.25]


def test_the_target_is_met_by_count_and_by_cost() -> None:
    pruner = attached()
    set_densities(pruner, 0.5, 0.5)  # 5 of 5 channels, but too many FLOPs
    pruner.after_step(Progress(0, 9, 0, 1))
    assert pruner.state_dict() == {"growth": 2, "met": False}
    set_densities(pruner, 0.2, 0.95)  # few FLOPs, but 6 channels
    pruner.after_step(Progress(1, 9, 0, 1))
    assert pruner.state_dict() == {"growth": 3, "met": False}
    set_densities(pruner, 0.33, 0.45)
    pruner.after_step(Progress(2, 9, 0, 1))
    assert pruner.state_dict() == {"growth": 3, "met": True}
    set_densities(pruner, 0.9, 0.9)
    pruner.after_step(Progress(3, 9, 0, 1))
    assert pruner.state_dict() == {"growth": 3, "met": True}


@pytest.mark.parametrize("distribution", ["uniform", "erk", "global", "lamp"])
@pytest.mark.parametrize("form", ["channel", "filter", "kernel", "block-4x1"])
def test_finished_masks_have_the_asked_total_from_any_densities_above_it(form: str, distribution: str) -> None:
    torch.manual_seed(0)
    for sparsity in ("1/3", "0.6", "0.9"):
        pruner = Harp(granularity=form)
        pruner.attach(coupled(), Budget(sparsity, distribution), example=EXAMPLE)
        with torch.no_grad():
            for quota in pruner.quotas.values():
                quota.quota.add_(4 + 3 * torch.rand(()))
        live = live_groups(form, pruner.finish())
        assert sum(live.values()) == pruner.asked
        assert min(live.values()) >= 1


def test_scores_alone_are_hydra_on_channels_bit_for_bit() -> None:
    ends: list[list[Tensor]] = []
    for pruner in (Harp(granularity="channel", mode="scores"), Hydra(granularity="channel")):
        model, optimizer = begin(pruner, Budget("1/2", "erk"), network=coupled, example=EXAMPLE)
        loop(model, pruner, optimizer, epochs=2)
        ends.append([*pruner.finish().values(), *model.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_rates_alone_keep_the_order_of_the_channels_norms() -> None:
    pruner = Harp(granularity="filter", mode="rates", gamma=0.5, start_density=0.9)
    model, optimizer = begin(pruner, Budget("1/2"), network=coupled, example=EXAMPLE)
    start = {name: scored.scores.detach().clone() for name, scored in pruner.scored.items()}
    before = [quota.quota.item() for quota in pruner.quotas.values()]
    loop(model, pruner, optimizer, epochs=3)
    assert all(q.quota.item() != old for q, old in zip(pruner.quotas.values(), before, strict=True))
    assert all(torch.equal(scored.scores, start[name]) for name, scored in pruner.scored.items())
    masks = pruner.finish()
    for groups in all_groups("filter").values():
        norms = [sum(abs(start[name].flatten()[i].item()) for name, i in group) for group in groups]
        live = [bool(masks[group[0][0]].flatten()[group[0][1]]) for group in groups]
        kept, gone = (
            [n for n, alive in zip(norms, live, strict=True) if alive is which] for which in (True, False)
        )
        assert not gone or min(kept) >= max(gone)


def test_state_loads_with_weights_only_and_the_counts_come_back() -> None:
    pruner = attached()
    set_densities(pruner, 0.33, 0.9)
    pruner.after_step(Progress(0, 9, 0, 1))
    file = io.BytesIO()
    torch.save([pruner.model.state_dict(), pruner.state_dict()], file)
    file.seek(0)
    model_state, state = torch.load(file, weights_only=True)
    again = attached()
    again.model.load_state_dict(model_state)
    again.load_state_dict(state)
    assert again.selection.keep == pruner.selection.keep
    assert again.state_dict() == pruner.state_dict()


def test_without_an_example_channels_cost_their_parameters() -> None:
    pruner = Harp(granularity="channel")
    pruner.attach(coupled(), Budget("1/2"))
    sizes = dict(zip(("stem", "inner", "outer", "depthwise", "fc"), PARAMETERS, strict=True))
    densities = {name: 0.1 * (k + 1) for k, name in enumerate(pruner.quotas)}
    expected = sum(sizes[name.removesuffix(".weight")] * density for name, density in densities.items())
    used = pruner.resource.used(torch.tensor(list(densities.values())))
    assert "stem.weight" not in densities
    assert used.item() == pytest.approx((expected + sizes["stem"]) / sum(PARAMETERS))
    with pytest.raises(ModelError, match="resource flops has to trace the model: give attach"):
        Harp(granularity="channel", resource="flops").attach(coupled(), Budget("1/2"))


class Untold(nn.Module):
    """A model with an operation of which the cost is not known."""

    def __init__(self) -> None:
        super().__init__()
        self.body = small_model()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.cumsum(3))


def test_single_weights_may_cost_their_flops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    model, pruner = Untold(), Harp(resource="flops")
    pruner.attach(model, Budget(0.9), example=torch.rand(1, 1, 8, 8))
    layers = [2 * 36 * 6 * 9, 2 * 16 * 4 * 3 * 9, 2 * 3 * 64]
    densities = torch.tensor([0.1, 0.5, 0.9])
    expected = sum(n * k for n, k in zip(layers, densities.tolist(), strict=True)) / sum(layers)
    assert pruner.resource.used(densities).item() == pytest.approx(expected)
    (remark,) = pruner.remarks
    assert "its FLOPs are not known, and no part of the penalty" in remark
    assert list(pruner.finish()) == list(prunable_weights(model))
