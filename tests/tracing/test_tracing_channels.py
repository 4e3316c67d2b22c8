"""Channel classes by hand: what is tied, what stays free, and why the rest is fixed."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from coupled_models import made
from small_models import Written, attention, conv, norm
from torch import nn
from zoo_models import traced

from hedgerow.errors import ModelError
from hedgerow.sparsity import prunable_weights
from hedgerow.tracing import channel_classes, trace


def classes(name):
    model, graph = made(name)
    found = channel_classes(graph, model)
    return (
        found,
        {w: i.tolist() for w, i in found.inputs.items()},
        {w: o.tolist() for w, o in found.outputs.items()},
    )


def test_a_residual_sum_ties_its_branches_and_nothing_else():
    found, inputs, outputs = classes("residual")
    stream, inner = outputs["stem.weight"], outputs["first.weight"]
    assert outputs["second.weight"] == inputs["first.weight"] == inputs["fc.weight"] == stream
    assert inputs["second.weight"] == inner
    everything = [*inputs["stem.weight"], *stream, *inner, *outputs["fc.weight"]]
    assert sorted(everything) == list(range(found.count)) == list(range(3 + 4 + 5 + 2))
    assert found.fixed == {*inputs["stem.weight"], *outputs["fc.weight"]}
    assert found.removable == tuple(sorted(stream + inner))
    assert {found.reasons[k] for k in inputs["stem.weight"]} == {"the channels of the images"}
    assert {found.reasons[k] for k in outputs["fc.weight"]} == {"the outputs of the model"}
    assert all(
        torch.equal(found.parameters[f"b1.{n}", 0], found.outputs["stem.weight"])
        for n in ("weight", "running_var")
    )


def test_a_depthwise_layer_ties_its_outputs_to_its_inputs_and_a_flatten_repeats():
    found, inputs, outputs = classes("squeeze and excitation")
    assert outputs["a.weight"] == outputs["up.weight"] == inputs["down.weight"] == outputs["d.weight"]
    assert inputs["fc.weight"] == [k for k in outputs["d.weight"] for _ in range(64)]
    (only,) = inputs["d.weight"]
    assert only in found.fixed
    assert "d.weight is depthwise" in found.reasons[only]
    assert set(outputs["d.weight"]) <= set(found.removable)


def test_a_concatenation_strings_together_and_a_split_takes_apart():
    _, inputs, outputs = classes("split and joined")
    whole = outputs["a.weight"]
    assert inputs["b.weight"] == whole[2:]
    assert inputs["fc.weight"] == [*outputs["b.weight"], *whole[:2], *whole[2:]]


def test_a_grouped_layer_ties_the_same_index_of_every_group():
    found, inputs, outputs = classes("grouped")
    assert outputs["0.weight"] == inputs["2.weight"] * 2
    assert outputs["2.weight"] == outputs["2.weight"][:6] * 2
    assert outputs["5.weight"] == [k for k in outputs["2.weight"] for _ in range(2)]
    assert len(set(inputs["2.weight"])) == 4
    assert len(set(outputs["2.weight"])) == 6
    assert not found.fixed & {*inputs["2.weight"], *outputs["2.weight"]}


def test_padded_channels_are_classes_of_their_own_unless_summed():
    _, inputs, outputs = classes("padded shortcut")
    assert outputs["b.weight"][1:5] == outputs["a.weight"] == inputs["b.weight"]
    assert inputs["fc.weight"] == outputs["b.weight"]
    assert len(set(outputs["b.weight"])) == 7


def test_a_module_called_twice_ties_what_enters_to_what_leaves():
    _, inputs, outputs = classes("one module twice")
    assert inputs["b.weight"] == outputs["b.weight"] == outputs["a.weight"] == inputs["fc.weight"]


def test_constants_are_shortened_along_their_channel_axis_alone():
    found, _, outputs = classes("constants per channel")
    ids = outputs["a.weight"]
    assert [found.parameters[name, 0].tolist() for name in ("scale", "shift", "slope")] == [ids] * 3
    assert set(found.parameters["rows", 0].tolist()) <= found.fixed
    found, _, outputs = classes("tokens")
    assert found.parameters["place", 2].tolist() == found.parameters["cls", 2].tolist() == outputs["a.weight"]
    assert set(found.parameters["place", 1].tolist()) <= found.fixed


@pytest.mark.parametrize("name", ["vgg16-bn", "resnet20", "wrn-28-4", "resnet50", "mobilenet-v2"])
def test_only_images_and_logits_are_fixed_in_the_convolutional_networks(name):
    model, graph = traced(name)
    found = channel_classes(graph, model)
    assert set(found.inputs) == set(found.outputs) == set(prunable_weights(model))
    free = {k for w, ids in found.outputs.items() if not w.endswith("fc.weight") for k in ids.tolist()}
    depthwise = {ids[0].item() for ids in found.inputs.values() if len(ids) == 1}
    outputs = set(list(found.outputs.values())[-1].tolist())
    images_ = set(next(iter(found.inputs.values())).tolist())
    assert found.fixed == images_ | outputs | depthwise
    assert len(outputs) == 5
    assert free - outputs <= set(found.removable)
    for weight in prunable_weights(model).values():
        assert found.inputs[weight.name].shape == weight.dense.shape[1:2]
        assert found.outputs[weight.name].shape == weight.dense.shape[:1]


def test_resnet20_has_one_class_per_channel_of_stream_and_block():
    model, graph = traced("resnet20")
    found = channel_classes(graph, model)
    assert found.count == 3 + 5 + sum(width * (1 + 3) for width in (4, 8, 16))


FIXED = {
    "attention": (
        lambda: Written(
            lambda s, x: s.fc(s.m(*[s.c(x).flatten(2).transpose(1, 2)] * 3)[0].mean(1)),
            c=conv(3, 4), m=attention(), fc=nn.Linear(4, 2),
        ),
        {("m.in_proj_weight", 0): "sdpa in 'm'|in 'm'"},
    ),
    "channel shuffle": (
        lambda: Written(
            lambda s, x: s.d(s.c(x).unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)), c=conv(3, 4), d=conv(4, 2)
        ),
        {("c.weight", 0): "spreads the channels over several axes", ("d.weight", 1): "spreads the channels"},
    ),
    "an unknown operation": (
        lambda: Written(lambda s, x: s.d(s.c(x).cumsum(1)), c=conv(3, 4), d=conv(4, 2)),
        {("c.weight", 0): r"cannot be proven through aten\.cumsum", ("d.weight", 1): "aten.cumsum"},
    ),
    "a norm over groups": (
        lambda: nn.Sequential(conv(3, 4), nn.GroupNorm(2, 4), conv(4, 2)),
        {("0.weight", 0): "group_norm in '1' normalises over several channels"},
    ),
    "a norm over channels": (
        lambda: nn.Sequential(conv(3, 4), nn.LayerNorm((4, 8, 8)), conv(4, 2)),
        {("0.weight", 0): "layer_norm in '1' normalises over the channels"},
    ),
    "softmax over channels": (
        lambda: nn.Sequential(conv(3, 4), nn.Softmax(1), conv(4, 2)),
        {("0.weight", 0): "softmax in '1' runs over the channels"},
    ),
    "a mean over channels": (
        lambda: Written(lambda s, x: s.c(x).mean(1, keepdim=True) + s.d(x), c=conv(3, 4), d=conv(3, 2)),
        {("c.weight", 0): "mean in the model's own forward runs over the channels"},
    ),
    "one channel picked": (
        lambda: Written(lambda s, x: s.d(s.c(x)[:, 2].unsqueeze(1)), c=conv(3, 4), d=conv(1, 2)),
        {("c.weight", 0): "takes a channel by its number"},
    ),
    "every second channel": (
        lambda: Written(lambda s, x: s.d(s.c(x)[:, ::2]), c=conv(3, 4), d=conv(2, 2)),
        {("c.weight", 0): "takes every 2th channel"},
    ),
    "one channel for all": (
        lambda: Written(lambda s, x: s.f(s.c(x) * s.d(x)), c=conv(3, 4), d=conv(3, 1), f=conv(4, 2)),
        {("d.weight", 0): "uses this channel for all others"},
    ),
    "crossed axes": (
        lambda: Written(
            lambda s, x: s.f(s.c(x) + s.d(x).transpose(1, 3)), c=conv(3, 8), d=conv(3, 8), f=conv(8, 2)
        ),
        {("c.weight", 0): "crosses two channel axes", ("d.weight", 0): "crosses two channel axes"},
    ),
    "a linear layer on another axis": (
        lambda: Written(lambda s, x: s.l(s.c(x)), c=conv(3, 4), l=nn.Linear(8, 2)),
        {("c.weight", 0): "features of linear in 'l' lie on another axis", ("l.weight", 1): "another axis"},
    ),
    "channels repeated by padding": (
        lambda: nn.Sequential(
            conv(3, 4), nn.Flatten(2), Written(lambda s, x: F.pad(x.transpose(1, 2), (1, 1), mode="replicate")),
            nn.Linear(6, 2),
        ),
        {("0.weight", 0): "pad in '2' repeats channels"},
    ),
    "a transposed convolution": (
        lambda: nn.Sequential(conv(3, 4), nn.ConvTranspose2d(4, 2, 2)),
        {("0.weight", 0): "cannot be proven through conv_transpose in '1'"},
    ),
    "a computed kernel": (
        lambda: Written(lambda s, x: F.conv2d(x, s.c.weight - s.c.weight.mean()), c=conv(3, 4)),
        {("c.weight", 0): "c.weight is computed with in"},
    ),
    "a weight that is a summand as well": (
        lambda: Written(lambda s, x: s.m(s.l(x)) + s.m.weight.sum(), l=nn.Linear(8, 4), m=nn.Linear(4, 2)),
        {("l.weight", 0): "m.weight is computed with in"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(FIXED))
def test_what_cannot_be_proven_stays_and_says_why(case):
    factory, expected = FIXED[case]
    model = factory().eval()
    found = channel_classes(trace(model, torch.rand(2, 3, 8, 8)), model)
    for (name, axis), pattern in expected.items():
        for k in found.parameters[name, axis].tolist():
            assert k in found.fixed
            assert re.search(pattern, found.reasons[k])


def test_a_model_of_another_width_is_refused():
    graph = trace(nn.Sequential(conv(3, 4), norm(4)), torch.rand(2, 3, 8, 8))
    with pytest.raises(ModelError, match=r"0\.weight is \[5, 3, 3, 3\], but axis 0 has 4 entries"):
        channel_classes(graph, nn.Sequential(conv(3, 5), norm(5)))


def test_a_vision_transformer_may_lose_the_hidden_units_of_its_perceptrons():
    model, graph = traced("vit-tiny")
    found = channel_classes(graph, model)
    assert set(found.outputs) == set(prunable_weights(model))
    hidden = found.outputs["network.blocks.0.mlp.0.weight"]
    assert set(found.removable) == set(hidden.tolist())
    assert torch.equal(found.inputs["network.blocks.0.mlp.2.weight"], hidden)
