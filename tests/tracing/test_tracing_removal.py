"""Channel classes against physical removal: the network without them computes the same."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from coupled_models import COUPLED, made
from torch import nn
from zoo_models import images, traced

from hedgerow.tracing import Graph, channel_classes, run


def subject(name):
    if name in COUPLED:
        return (*made(name), images(2, 3, 8, 8, seed=9))
    return (deepcopy(traced(name)[0]), traced(name)[1], images(2, 3, 16, 16, seed=9))


def chosen(channels):
    """Every second class that may go, but for one where an axis would be left without any."""
    gone = set(channels.removable[::2])
    for ids in channels.parameters.values():
        if set(ids.tolist()) <= gone:
            gone.discard(int(ids[0]))
    return gone


def kept(ids, gone):
    return torch.tensor([k not in gone for k in ids.tolist()])


def tensor(model, name):
    path, _, attribute = name.rpartition(".")
    return model.get_submodule(path), attribute


def silence(model, channels, gone):
    """Make the channels constant zero: rows of weights, biases and affine parameters."""
    layers = set(channels.inputs)
    with torch.no_grad():
        for (name, axis), ids in channels.parameters.items():
            if axis == 1 and name in layers:
                continue
            owner, attribute = tensor(model, name)
            shape = [1] * getattr(owner, attribute).dim()
            shape[axis] = -1
            getattr(owner, attribute).mul_(kept(ids, gone).view(shape))


def scramble_columns(model, channels, gone):
    with torch.no_grad():
        for name, ids in channels.inputs.items():
            owner, attribute = tensor(model, name)
            getattr(owner, attribute)[:, ~kept(ids, gone)] += 3.0


def removed(graph, model, channels, gone):
    """Return model and graph without the channels `gone`: the slow way to remove, over the graph."""
    small, nodes = deepcopy(model), {}
    for (name, axis), ids in channels.parameters.items():
        owner, attribute = tensor(small, name)
        old = getattr(owner, attribute)
        new = old.detach().index_select(axis, kept(ids, gone).nonzero().flatten())
        setattr(owner, attribute, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)
    for node in graph.nodes:
        nodes[node] = replace(
            node,
            inputs=tuple(nodes[operand] for operand in node.inputs),
            shape=smaller(node, channels, gone),
            attributes=adapted(node, channels, gone),
        )
    return Graph(tuple(nodes.values()), nodes[graph.output], graph.constants), small


def smaller(node, channels, gone):
    shape = list(node.shape)
    if node.name in channels.nodes:
        axis, ids = channels.nodes[node.name]
        shape[axis] = int(kept(ids, gone).sum())
    return tuple(shape)


def adapted(node, channels, gone):
    attributes = dict(node.attributes)
    if node.op == "conv" and attributes["groups"] == node.inputs[0].shape[1] > 1:
        attributes["groups"] = int(kept(channels.nodes[node.inputs[0].name][1], gone).sum())
    elif node.op == "group_norm":
        attributes["groups"] = int(kept(channels.nodes[node.name][1], gone).sum())
    elif node.op == "slice" and channels.nodes[node.inputs[0].name][0] == attributes["dim"]:
        stay = kept(channels.nodes[node.inputs[0].name][1], gone)
        attributes |= {end: int(stay[: attributes[end]].sum()) for end in ("start", "stop")}
    elif node.op == "pad" and node.name in channels.nodes:
        axis, ids = channels.nodes[node.name]
        before, after = attributes["pads"][axis]
        stay, pads = kept(ids, gone), list(attributes["pads"])
        pads[axis] = (int(stay[:before].sum()), int(stay[len(stay) - after :].sum()))
        attributes["pads"] = tuple(pads)
    return attributes


SUBJECTS = [*COUPLED, "cnn-small", "resnet20", "preact-resnet18", "mobilenet-v2"]


@pytest.mark.parametrize("name", SUBJECTS)
def test_removing_classes_of_silent_channels_changes_nothing(name):
    model, graph, x = subject(name)
    channels = channel_classes(graph, model)
    gone = chosen(channels)
    assert len(gone) >= 2
    silence(model, channels, gone)
    expected = model(x)
    assert expected.std() > 0
    small_graph, small = removed(graph, model, channels, gone)
    torch.testing.assert_close(run(small_graph, small, x), expected, rtol=1e-9, atol=1e-9)
    assert sum(p.numel() for p in small.parameters()) < 0.9 * sum(p.numel() for p in model.parameters())
    # No kept weight reads them: what stands in their columns does not matter.
    scramble_columns(model, channels, gone)
    torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)
