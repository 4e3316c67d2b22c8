"""One way in which a channel is dead, or has to stay, at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from shrink_models import images, quick, scattered
from torch import nn

from hedgerow.compact import shrink
from hedgerow.errors import ModelError
from hedgerow.sparsity import attach_masks, prunable_weights
from hedgerow.tracing import trace

X = images(3, 8)


class Written(nn.Module):
    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def dead_filter(layer, *channels, bias=None):
    with torch.no_grad():
        layer.weight[list(channels)] = 0.0
        if bias is not None:
            layer.bias[list(channels)] = bias


def seeded(*layers):
    model = layers[0] if len(layers) == 1 else nn.Sequential(*layers)
    torch.manual_seed(6)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.6, 0.6)
    return scattered(model.double().eval())


def checked(model, **options):
    """Shrink the quick way; the function must be the same."""
    small, removal = quick(model, trace(model, X), **options)
    with torch.no_grad():
        torch.testing.assert_close(small(X), model(X), rtol=0, atol=1e-9)
    return small, removal


def reader(kind):
    return {
        "padded": [nn.Conv2d(4, 3, 3, padding=1), nn.Flatten(), nn.Linear(192, 2)],
        "unpadded": [nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(108, 2)],
        "strided, without bias": [nn.Conv2d(4, 3, 2, stride=2, bias=False), nn.Flatten(), nn.Linear(48, 2)],
        "grouped": [nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(256, 2)],
        "flattened": [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 2, bias=False)],
        "averaged at the border": [nn.AvgPool2d(3, padding=1), nn.Flatten(), nn.Linear(36, 2)],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "bias", "gone"),
    [
        ("padded", 0.7, 0),
        ("padded", -0.7, 1),
        ("padded", 0.0, 1),
        ("unpadded", 0.7, 1),
        ("strided, without bias", 0.7, 1),
        ("grouped", 0.7, 0),
        ("flattened", 0.7, 1),
        ("averaged at the border", 0.7, 0),
        ("averaged at the border", -0.1, 1),
    ],
)
def test_a_constant_goes_where_its_readers_can_take_it_up(kind, bias, gone):
    model = seeded(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), *reader(kind))
    dead_filter(model[0], 1, bias=bias)
    small, removal = checked(model)
    assert small[0].out_channels == 4 - gone
    assert removal.channels == gone
    if not gone:
        (kept,) = removal.kept
        assert (kept.weight, kept.channels) == ("0.weight", (1,))
        assert kept.reason


def test_both_channels_of_a_grouped_layer_go_when_both_are_dead():
    model = seeded(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), *reader("grouped"))
    dead_filter(model[0], 1, 3, bias=0.7)
    small, _ = checked(model)
    assert small[0].out_channels == 2
    assert (small[2].in_channels, small[2].groups) == (2, 2)


def test_the_constant_that_stays_is_named_with_its_reader():
    model = seeded(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), *reader("padded"))
    dead_filter(model[0], 1, bias=0.7)
    reason = checked(model)[1].kept[0].reason
    assert reason == "a constant other than zero, which conv in '2' cannot take into a bias exactly"


def test_a_channel_that_nobody_reads_goes_and_takes_along_what_fed_it_alone():
    model = seeded(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), *reader("padded"))
    with torch.no_grad():
        model[3].weight[:, 2] = 0.0
        model[5].weight[:, 64:128] = 0.0  # the whole of channel 1 of the second layer
        model[3].weight[0, 0] = 0.0
        model[3].weight[2, 0] = 0.0  # channel 0 of the first feeds that one alone
    small, removal = checked(model)
    assert [layer.removed for layer in removal.layers] == [(0, 2), (1,), ()]
    assert small[1].num_features == 2
    assert small[5].in_features == 128


def residual(self, x):
    x = F.relu(self.a(x))
    x = x + self.norm(self.b(x))
    return self.fc(F.adaptive_avg_pool2d(F.relu(x), 1).flatten(1))


def test_a_residual_channel_goes_only_when_all_its_producers_are_dead():
    parts = {"a": nn.Conv2d(3, 4, 3), "b": nn.Conv2d(4, 4, 1), "norm": nn.BatchNorm2d(4), "fc": nn.Linear(4, 2)}
    model = seeded(Written(residual, **parts))
    dead_filter(model.b, 0, 1)
    small, removal = checked(model)
    assert removal.channels == 0
    assert {(kept.weight, kept.channels) for kept in removal.kept} == {("b.weight", (0, 1))}
    dead_filter(model.a, 1, bias=0.3)
    small, removal = checked(model)
    assert small.a.out_channels == small.b.out_channels == small.norm.num_features == small.fc.in_features == 3
    assert [layer.removed for layer in removal.layers] == [(1,), (1,), ()]


def test_a_normalisation_whose_scale_is_zero_needs_no_input():
    model = seeded(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), *reader("flattened")[1:-1], nn.Linear(144, 2))
    with torch.no_grad():
        model[1].weight[[0, 3]] = 0.0
    assert checked(model)[1].layers[0].removed == (0, 3)


def test_depthwise_multipliers_and_instance_norm_follow():
    layers = [nn.Conv2d(3, 4, 3), nn.GroupNorm(4, 4, affine=False), nn.Conv2d(4, 8, 3, groups=4, bias=False)]
    model = seeded(*layers, nn.PReLU(8), nn.Flatten(), nn.Linear(128, 2))
    dead_filter(model[0], 2, bias=0.0)
    small, _ = checked(model)
    assert (small[1].num_groups, small[2].groups, small[2].out_channels) == (3, 3, 6)
    assert small[3].num_parameters == 6


@pytest.mark.parametrize(("multiple", "left"), [(1, 3), (4, 4), (6, 6), (16, 10)])
def test_kept_counts_are_rounded_up_with_dead_channels(multiple, left):
    model = seeded(nn.Conv2d(3, 10, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(640, 2))
    dead_filter(model[0], 0, 1, 2, 5, 6, 7, 8, bias=-1.0)
    small, removal = checked(model, multiple_of=multiple)
    assert small[0].out_channels == left
    assert sum(len(kept.channels) for kept in removal.kept) == left - 3
    assert all(f"multiple of {multiple}" in kept.reason for kept in removal.kept)


def hard_coded(self, x):
    x = F.relu(self.b(F.relu(self.a(x))))
    return self.fc(x.view(-1, 256))


def by_number(self, x):
    x = F.relu(self.a(x))
    return self.fc(F.relu(self.b(torch.cat([x[:, 2:], x[:, :2]], 1))).flatten(1))


@pytest.mark.parametrize(("forward", "left"), [(hard_coded, {"a": 3, "b": 4}), (by_number, {"a": 4, "b": 3})])
def test_numbers_in_the_forward_pass_keep_the_channels_they_count(forward, left):
    parts = {"a": nn.Conv2d(3, 4, 3, padding=1), "b": nn.Conv2d(4, 4, 1), "fc": nn.Linear(256, 2)}
    model = seeded(Written(forward, **parts))
    dead_filter(model.a, 1, bias=-1.0)
    dead_filter(model.b, 2, bias=-1.0)
    shrunk = shrink(model, X)
    torch.testing.assert_close(shrunk.model(X), model(X), rtol=0, atol=1e-9)
    assert {name: getattr(shrunk.model, name).out_channels for name in left} == left
    (kept,) = shrunk.removal.kept
    assert kept.weight == next(f"{name}.weight" for name in left if left[name] == 4)
    assert kept.reason.startswith("the forward pass")


def test_masks_that_are_attached_are_applied_for_good():
    model = seeded(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))
    with torch.no_grad():
        model[0].bias.fill_(-0.1)
    masks = {name: torch.ones_like(weight.dense).bool() for name, weight in prunable_weights(model).items()}
    masks["0.weight"][1:3] = False
    attach_masks(model, masks)
    shrunk = shrink(model.train(), X)
    assert shrunk.model.training
    assert model.training
    assert shrunk.model[0].out_channels == 2
    assert type(shrunk.model[0]) is nn.Conv2d
    assert "0.weight" in dict(shrunk.model.named_parameters())
    torch.testing.assert_close(shrunk.model(X), model(X), rtol=0, atol=1e-9)


def test_what_cannot_be_done_is_said():
    model = seeded(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    for multiple in (0, 1.5, True):
        with pytest.raises(ModelError, match=r"multiple_of is .*at least 1"):
            shrink(model, X, multiple_of=multiple)
    model[0].tangled = model[0].weight * 2
    with pytest.raises(ModelError, match=r"cannot be copied .*take off"):
        shrink(model, X)
