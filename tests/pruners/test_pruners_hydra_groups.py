"""HYDRA on groups against its equations done slowly: patterns, blocks and channels that layers share."""

from __future__ import annotations

import math

import pytest
import torch
import unit_cases
from dense_cases import batches, seen_weights
from torch import Tensor, nn
from torch.nn import functional as F
from unit_cases import EXAMPLE, all_groups, coupled, largest_half, sparsity_of, values

from hedgerow.pruners import Hydra, Magnitude
from hedgerow.sparsity import Budget, prunable_weights, shared_weights, sparse_view

HALF = Budget("1/2")
GROUPED = ["filter", "channel", "kernel", "block-4x1", "2:4"]


@pytest.fixture(autouse=True)
def _one_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    unit_cases.trace_once(monkeypatch)


@pytest.mark.parametrize("form", GROUPED)
@pytest.mark.parametrize("alone", [False, True])
def test_hydra_starts_where_magnitude_pruning_of_the_same_groups_ends(form: str, alone: bool) -> None:
    budget = Budget(sparsity_of(form))
    ends = []
    for pruner in (Hydra(granularity=form), Magnitude(granularity=form)):
        pruner.attach(coupled(), budget, example=None if alone else EXAMPLE)
        ends.append(pruner.finish())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])


def test_weights_that_share_channels_share_the_scale_of_their_scores() -> None:
    pruner = Hydra(granularity="channel")
    pruner.attach(coupled(), HALF, example=EXAMPLE)
    weights = pruner.dense_values()
    own = {n: math.sqrt(6 / w[0].numel()) / w.abs().max().item() for n, w in weights.items()}
    stream = min(own[n] for n in ("inner.weight", "depthwise.weight", "fc.weight"))
    assert set(pruner.scored) == {"inner.weight", "depthwise.weight", "fc.weight", "outer.weight"}
    for name, scored in pruner.scored.items():
        scale = own[name] if name == "outer.weight" else stream
        torch.testing.assert_close(scored.scores.detach(), weights[name] * scale)


@pytest.mark.parametrize("form", GROUPED)
def test_the_groups_whose_scores_have_the_largest_l1_norm_live(form: str) -> None:
    pruner = Hydra(granularity=form, init="random")
    model = coupled()
    pruner.attach(model, Budget(sparsity_of(form)), example=EXAMPLE)
    with torch.no_grad():
        for scored in pruner.scored.values():
            scored.scores.copy_(torch.randn(scored.scores.shape, generator=torch.Generator().manual_seed(4)))
    scores = {name: scored.scores.detach() for name, scored in pruner.scored.items()}
    live = {name: scored.mask() for name, scored in pruner.scored.items()}
    for groups in all_groups(form).values():
        if form == "2:4":
            for group in groups:
                (name,) = {name for name, _ in group}
                alive = {i for _, i in group if live[name].flatten()[i]}
                assert alive == set(largest_half(group, scores[name])[0])
            continue
        sums = [sum(map(abs, values(scores, group))) for group in groups]
        alive = [all(live[name].flatten()[i] for name, i in group) for group in groups]
        assert min(s for s, a in zip(sums, alive, strict=True) if a) > max(
            s for s, a in zip(sums, alive, strict=True) if not a
        )


@pytest.mark.parametrize("form", GROUPED)
def test_every_score_learns_by_its_own_weight_and_gradient(form: str) -> None:
    """dL/ds = sign(s) * w * G, dense, with G = dL/d(w * m) from a twin whose effective weights are leaves."""
    x, y = batches(0)[0]
    model = coupled().double()
    pruner = Hydra(granularity=form)
    pruner.attach(model, Budget(sparsity_of(form)), example=EXAMPLE.double())
    with torch.no_grad():
        for scored in pruner.scored.values():
            scored.scores[::2] *= -1
    with shared_weights(model):
        F.cross_entropy(model(x.double()), y).backward()
    twin, effective = coupled().double(), {}
    for name, weight in prunable_weights(twin).items():
        if name in pruner.scored and not pruner.scored[name].passes_on:
            weight.dense.data.mul_(pruner.scored[name].mask())
        effective[name] = weight.dense
    F.cross_entropy(twin(x.double()), y).backward()
    dense = pruner.dense_values()
    for name, scored in pruner.scored.items():
        gradient = effective[name].grad
        assert gradient is not None
        torch.testing.assert_close(scored.scores.grad, scored.scores.detach().sign() * dense[name] * gradient)
    for members in pruner.units.coupled():  # what was removed is told to come back, by one of its layers at least
        told = [pruner.scored[name].scores.grad[~pruner.scored[name].mask()].abs().sum() for name in members]
        assert max(told) > 0
    learning = {id(p) for group in pruner.parameters() for p in group["params"]}
    assert not any(id(w.dense) in learning for w in pruner.weights.values())


class Wide(nn.Module):
    """A stream of 24 channels with a residual block on it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(2, 24, 3, padding=1), nn.Linear(24, 3)
        self.inner, self.outer = nn.Conv2d(24, 24, 3, padding=1), nn.Conv2d(24, 24, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.outer(self.inner(x).relu())
        return self.fc(x.relu().mean((2, 3)))


@pytest.mark.parametrize("form", GROUPED)
def test_learned_scores_choose_better_groups_than_magnitude(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The groups that answer most like the dense network are found."""
    monkeypatch.undo()
    torch.manual_seed(1)
    model, x = Wide(), batches(0)[0][0]
    dense, losses = model(x).detach(), []
    pruner = Hydra(granularity=form)
    pruner.attach(model, Budget(sparsity_of(form)), example=x[:1])
    optimizer = torch.optim.SGD(pruner.parameters(), lr=2.0, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        with shared_weights(model):
            loss = F.mse_loss(model(x), dense)
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-10:]) < 0.5 * losses[0]


def test_a_depthwise_layer_stays_as_it_is_while_scores_learn_and_nothing_is_different() -> None:
    pruner = Hydra(granularity="channel")
    model = coupled().eval()
    with torch.no_grad():  # without its weights, nothing of a depthwise channel would pass the ReLU
        model.depthwise.weight.abs_()
        model.depthwise.bias.fill_(-1e-4)
        model.outer.weight.mul_(0.01)
    pruner.attach(model, HALF, example=EXAMPLE)
    assert [name for name, scored in pruner.scored.items() if scored.passes_on] == ["depthwise.weight"]
    dense = pruner.dense_values()
    assert torch.equal(seen_weights(model)["depthwise.weight"], dense["depthwise.weight"])
    x, y = batches(0)[0]
    trained = model(x)
    F.cross_entropy(trained, y).backward()
    removed = ~pruner.scored["fc.weight"].mask()
    assert (pruner.scored["fc.weight"].scores.grad[removed] != 0).float().mean() > 0.5
    with sparse_view(model):
        assert torch.equal(
            seen_weights(model)["depthwise.weight"],
            dense["depthwise.weight"] * pruner.scored["depthwise.weight"].mask(),
        )
        torch.testing.assert_close(model(x), trained)
    pruner.finish()
    torch.testing.assert_close(model(x), trained)
