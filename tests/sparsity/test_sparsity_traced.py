"""Units of traced networks: what is removed is dead wherever it goes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hedgerow.errors import ModelError
from hedgerow.models import MODELS
from hedgerow.sparsity import CHANNEL, FILTER, Budget, bake, coupled_units, prunable_weights, traced_units
from hedgerow.tracing import Channels, channel_classes, trace


class Branches(nn.Module):
    """A concatenation, grouped and depthwise convolutions, a residual sum, features flattened into a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(2, 4, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.inner, self.outer = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
        self.fc = nn.Linear(8 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x), self.right(x)], 1).relu()
        x = self.depthwise(self.norm(self.grouped(x)).relu())
        x = x + self.outer(self.inner(x).relu())
        return self.fc(x.relu().flatten(1))


def resnet() -> nn.Module:
    return MODELS["resnet20"](num_classes=5, channels=2, image_size=(6, 6), width=4)  # type: ignore[operator]


def weighted(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = make().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model


@functools.cache
def classes_of(make: Callable[[], nn.Module]) -> Channels:
    model = weighted(make)
    return channel_classes(trace(model, torch.rand(1, 2, 6, 6)), model)


def removed_classes(masks: dict[str, Tensor], classes: Channels) -> set[int]:
    """Return the classes that a layer with axis 1 reads nothing of, in any of its places."""
    dead: set[int] = set()
    for name, ids in classes.inputs.items():
        silent = ~masks[name].transpose(0, 1).flatten(1).any(1)
        dead |= {int(c) for c in ids[silent]}
    return dead


def disturb_writers(model: nn.Module, classes: Channels, dead: set[int]) -> None:
    """Let every layer write noise to the channels of the dead classes."""
    for name, weight in prunable_weights(model).items():
        ids = classes.outputs[name]
        hit = torch.tensor([int(c) in dead for c in ids])

        def spoil(module: nn.Module, args: Any, output: Tensor, hit: Tensor = hit) -> Tensor:
            noise = 100 * torch.randn(output.shape)
            return output + noise * hit.view(1, -1, *[1] * (output.dim() - 2))

        if not (getattr(weight.module, "groups", 1) > 1 and weight.dense.shape[1] == 1):
            weight.module.register_forward_hook(spoil)


@pytest.mark.parametrize("make", [Branches, resnet])
def test_no_layer_hears_of_a_removed_channel(make: Callable[[], nn.Module]) -> None:
    model, x = weighted(make), torch.rand(3, 2, 6, 6)
    weights = prunable_weights(model)
    classes = classes_of(make)
    units = coupled_units(weights, CHANNEL, classes)
    dense = {name: weight.dense.detach() for name, weight in weights.items()}
    keep = Budget("1/2").keep(dense, units)
    masks = units.masks(units.select(units.scores({n: w.abs() for n, w in dense.items()}), keep), dense)
    bake(model, masks)
    dead = removed_classes(masks, classes)
    assert len(dead) == sum(unit.count - keep[name] for name, unit in units.items()) > 0
    assert not dead & classes.fixed
    with torch.no_grad():
        before = model(x)
        disturb_writers(model, classes, dead)
        torch.testing.assert_close(model(x), before)
        disturb_writers(model, classes, {next(iter(set(classes.removable) - dead))})
        assert not torch.allclose(model(x), before)  # a live channel is heard of


@pytest.mark.parametrize("make", [Branches, resnet])
def test_a_removed_filter_is_removed_in_every_layer_that_adds_to_it(make: Callable[[], nn.Module]) -> None:
    model, classes = weighted(make), classes_of(make)
    weights = prunable_weights(model)
    units = coupled_units(weights, FILTER, classes)
    dense = {name: weight.dense.detach() for name, weight in weights.items()}
    keep = Budget("1/2").keep(dense, units)
    masks = units.masks(units.select(units.norms(dense), keep), dense)
    gone = {name: {int(c) for c in ids[~masks[name].flatten(1).any(1)]} for name, ids in classes.outputs.items()}
    for name, ids in classes.outputs.items():
        assert masks[name].flatten(1).any(1).tolist() == masks[name].flatten(1).all(1).tolist()
        for other, others in classes.outputs.items():
            common = {int(c) for c in ids} & {int(c) for c in others}
            assert gone[name] & common == gone[other] & common
    assert masks["fc.weight"].all()
    assert len(set().union(*gone.values())) == sum(unit.count - keep[name] for name, unit in units.items())


def test_a_network_that_cannot_be_traced_is_refused() -> None:
    class Deciding(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            x = self[0](x)
            return self[1](x if x.sum() > 0 else -x)

    model = Deciding(nn.Linear(4, 4), nn.Linear(4, 2))
    with pytest.raises(
        ModelError, match=r"granularity 'channel' has to know .* cannot be traced: .* choose a granul"
    ):
        traced_units(model, prunable_weights(model), CHANNEL, torch.rand(1, 4))


def test_the_units_of_a_network_with_every_kind_of_layer() -> None:
    model = weighted(Branches)
    weights = prunable_weights(model)
    found = traced_units(model, weights, CHANNEL, torch.rand(1, 2, 6, 6))
    assert {name: (unit.weights, unit.count) for name, unit in found.items()} == {
        "grouped.weight": (("grouped.weight",), 4),  # channel j of both groups is one thing
        "depthwise.weight": (("depthwise.weight", "inner.weight", "fc.weight"), 4),
        "outer.weight": (("outer.weight",), 6),
    }
    assert found.whole == {"left.weight", "right.weight"}
    sizes = found.scores({n: torch.ones_like(w.dense) for n, w in weights.items()})
    assert sizes["depthwise.weight"].tolist() == [2 * (9 + 6 + 16 * 5)] * 4
