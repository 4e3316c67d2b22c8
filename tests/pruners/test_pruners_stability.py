"""Channels pruned by the stability of their ReLUs: against intervals done slowly, its order, its refusals."""

from __future__ import annotations

import functools
import math
import statistics
from typing import Any

import pytest
import torch
import unit_cases
from dense_cases import documented_recipes
from torch import Tensor, nn
from torch.nn import functional as F
from unit_cases import all_groups, coupled, values

from hedgerow.data import Split
from hedgerow.errors import ModelError, RecipeError
from hedgerow.models.en_resnet import BlockNoise
from hedgerow.objectives import Natural
from hedgerow.pruners import Magnitude
from hedgerow.pruners.stability import Stability, class_losses, places
from hedgerow.recipe import parse_recipe
from hedgerow.sparsity import Budget, prunable_weights
from hedgerow.threat import ThreatModel
from hedgerow.tracing import channel_classes, trace
from hedgerow.training import Plan, Setting, train

HALF = Budget("1/2")
THREAT = ThreatModel("linf", "1/20")
IMAGES = torch.rand(4, 2, 8, 8, generator=torch.Generator().manual_seed(7))
forms = pytest.mark.parametrize("form", ["channel", "filter"])


@pytest.fixture
def _one_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    unit_cases.trace_once(monkeypatch)


def network() -> nn.Module:
    """`Coupled` with a batch norm that has learnt something."""
    model = coupled()
    dice = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor, low, high in ((model.norm.weight, -2, 2), (model.norm.bias, -1, 1)):
            tensor.uniform_(low, high, generator=dice)
        model.norm.running_var.uniform_(0.5, 2, generator=dice)
    return model


def slow_conv(conv: nn.Conv2d, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    up, down = conv.weight.clamp(min=0), conv.weight.clamp(max=0)
    more = {"stride": conv.stride, "padding": conv.padding, "groups": conv.groups}
    return (
        F.conv2d(low, up, conv.bias, **more) + F.conv2d(high, down, **more),
        F.conv2d(high, up, conv.bias, **more) + F.conv2d(low, down, **more),
    )


@functools.cache
def slow_losses() -> list[float]:
    """Of the 6 channels of the stream, which enter a ReLU behind the norm and one behind the depthwise layer."""
    net = network().double()
    x, eps = IMAGES.double(), float(THREAT.eps)
    with torch.no_grad():
        low, high = slow_conv(net.stem, (x - eps).clamp(0, 1), (x + eps).clamp(0, 1))
        ends = [F.batch_norm(e, net.norm.running_mean, net.norm.running_var, net.norm.weight, net.norm.bias)
                for e in (low, high)]  # fmt: skip
        low, high = torch.minimum(*ends), torch.maximum(*ends)
        first = (low, high, net.norm.weight.tolist())
        low, high = low.relu(), high.relu()
        inner = [end.tanh() for end in slow_conv(net.inner, low, high)]
        added = slow_conv(net.outer, *inner)
        second = (*slow_conv(net.depthwise, low + added[0], high + added[1]), [1.0] * 6)
    by_relu = [
        [
            statistics.fmean(
                -math.tanh(1 + a * b / gammas[c] ** 2)
                for a, b in zip(lower[:, c].flatten().tolist(), upper[:, c].flatten().tolist(), strict=True)
            )
            for c in range(6)
        ]
        for lower, upper, gammas in (first, second)
    ]
    return [statistics.fmean(pair) for pair in zip(*by_relu, strict=True)]


@forms
@pytest.mark.usefixtures("_one_trace")
def test_channels_of_least_loss_stay_by_slow_intervals(form: str) -> None:
    pruner, model = Stability(THREAT, granularity=form), network()
    pruner.attach(model, HALF, example=IMAGES)
    (found,) = pruner.losses.values()
    assert found.tolist() == pytest.approx(slow_losses(), abs=1e-6)
    assert max(slow_losses()) - min(slow_losses()) > 0.1
    stay = set(sorted(range(6), key=lambda c: slow_losses()[c])[:3])
    masks = pruner.finish()
    for c, group in enumerate(all_groups(form)["stream"]):
        assert set(values({n: m.float() for n, m in masks.items()}, group)) == {float(c in stay)}


@forms
@pytest.mark.usefixtures("_one_trace")
def test_channels_that_no_relu_judges_go_by_norm_and_it_is_said(form: str) -> None:
    pruner, other = Stability(THREAT, granularity=form), Magnitude(granularity=form)
    for each in (pruner, other):
        each.attach(network(), HALF, example=IMAGES)
    unit = {"channel": "outer.weight", "filter": "inner.weight"}[form]
    said = f"{unit}: not all of its channels enter a ReLU, so they go by l1 norm"
    assert pruner.remarks == (*other.remarks, said)
    found, expected = pruner.finish(), other.finish()
    assert torch.equal(found[unit], expected[unit]) or form == "channel"  # there the stream is on its axis 0
    for group in all_groups(form)["inside"]:
        assert values(found, group) == values(expected, group)


@forms
@pytest.mark.usefixtures("_one_trace")
def test_no_unit_is_emptied(form: str) -> None:
    pruner = Stability(THREAT, granularity=form)
    pruner.attach(network(), Budget("0.99"), example=IMAGES)
    assert set(pruner.keep.values()) == {1}
    masks = pruner.finish()
    for groups in all_groups(form).values():
        assert sum(all(values(masks, group)) for group in groups) == 1


def test_the_order_is_loss_then_norm_then_index() -> None:
    losses = torch.tensor([-1.0, 0.5, -1.0, -1.0, 0.9, -1.0], dtype=torch.float64)
    norms = torch.tensor([3.0, 9.0, 1.0, 2.0, 8.0, 2.0])
    assert places(losses, norms).argsort().tolist() == [4, 1, 2, 3, 5, 0]


def test_a_class_that_enters_no_relu_has_no_loss() -> None:
    """Flattened before its ReLU, a channel is the mean of its places; behind a tanh it is unknown."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Flatten(), nn.ReLU(), nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 2)
    ).eval()  # fmt: skip
    graph = trace(net, torch.rand(1, 1, 4, 4))
    channels = channel_classes(graph, net)
    (relu,) = [node for node in graph.nodes if node.op == "relu"]
    found = class_losses({relu: torch.arange(8.0)}, channels)
    assert found[channels.outputs["0.weight"]].tolist() == [1.5, 5.5]
    assert found[channels.outputs["3.weight"]].isnan().all()


def decided(which: int) -> nn.Sequential:
    """Channel `which` of 4 is always on, the others are in doubt; it has the smallest weights."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    with torch.no_grad():
        net[0].bias.zero_()
        net[0].bias[which] = 20
        net[3].weight.view(3, 4, 36)[:, which] *= 0.01
    return net


@pytest.mark.parametrize("which", [0, 2])
def test_a_decided_channel_stays_where_magnitude_takes_it(which: int) -> None:
    kept = []
    for pruner in (Stability(THREAT), Magnitude(granularity="channel")):
        pruner.attach(decided(which), Budget("3/4"), example=IMAGES)
        kept.append(pruner.finish()["3.weight"].view(3, 4, 36).all(2).all(0).nonzero().flatten().tolist())
    assert kept[0] == [which]
    assert which not in kept[1]


@pytest.mark.parametrize(("asked", "given"), [(5, 5), (99, 12)])
def test_the_loop_gives_it_images_of_the_training_set(asked: int, given: int) -> None:
    seen: list[Tensor] = []

    class Watched(Stability):
        def attach(self, model: nn.Module, budget: Budget, *, example: Tensor | None = None) -> None:
            seen.append(example)
            super().attach(model, budget, example=example)

    split = Split((255 * torch.rand(12, 2, 8, 8)).to(torch.uint8), torch.arange(12) % 3)
    model = decided(1)
    plan = Plan(epochs=3, lr=0.1)
    pruner = Watched(THREAT, images=asked)
    out = train(model, split, Natural(), plan=plan, pruner=pruner, budget=HALF, setting=Setting(seed=4))
    assert out.epochs == 0
    assert torch.equal(seen[0], split.take(asked, 4).pixels())
    assert len(seen[0]) == given
    assert (prunable_weights(model)["3.weight"].dense == 0).sum() == 3 * 144 / 2


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 3)), "gelu in '1': no bounds"),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3)), "has no ReLU whose stab"),
        (
            nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3), nn.ReLU()),
            r"no ReLU judges the channels of any unit \(3.weight\); prune this network by magnitude",
        ),
        (
            nn.Sequential(BlockNoise(), nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)),
            "stochastic",
        ),
    ],
)
def test_networks_that_it_cannot_judge_are_refused_before_training_too(net: nn.Module, message: str) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ModelError, match=message):
        Stability(THREAT).check(net, IMAGES[:2])
    with pytest.raises(ModelError, match=message):
        Stability(THREAT).attach(net, HALF, example=IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_check_leaves_a_network_that_it_can_judge_as_it_is() -> None:
    net = decided(0).train()
    Stability(THREAT).check(net, IMAGES[:2])
    assert net.training
    assert all(torch.equal(a, b) for a, b in zip([*net.parameters()], [*decided(0).parameters()], strict=True))


def test_without_images_it_cannot_decide() -> None:
    with pytest.raises(ModelError, match="judges channels on images; give attach an example"):
        Stability(THREAT).attach(decided(0), HALF)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 0}, r"pruning \(images: 0\): images is 0; it counts"),
        ({"granularity": "weight"}, "Stability has no 'weight' form: bounds judge whole channels; train with"),
        ({"granularity": "2:4"}, "Stability has no '2:4' form"),
        ({"eps": 0}, "threat.eps is 0, and without an attacker every ReLU is settled"),
    ],
)
def test_recipes_hear_what_does_not_go(changes: dict[str, Any], message: str) -> None:
    raw: dict[str, Any] = {"name": "x", "pruning": {"method": "stability", "sparsity": 0.5}}
    assert parse_recipe(raw).pruning.method == "stability"
    if "eps" in changes:
        raw["threat"] = changes
    else:
        raw["pruning"].update(changes)
    with pytest.raises(RecipeError, match=message):
        parse_recipe(raw)


def test_the_documented_recipe_is_valid() -> None:
    (recipe,) = documented_recipes("stability.md")
    assert recipe.pruning.method == "stability"
    assert recipe.phases.finetune.objective.model_extra["stability"] == 0.01


@pytest.mark.parametrize("images", [True, 1.5, -1])
def test_a_number_of_images_is_whole_and_positive(images: Any) -> None:
    with pytest.raises(ValueError, match=f"images is {images}; it counts"):
        Stability(images=images)
