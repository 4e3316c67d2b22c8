"""The graph against the model: the same answer for every module and batch size, over its own live weights."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
import torch
from small_models import CASES, Counting, Written, build, conv, masked, plain
from torch import nn
from torch.nn.utils import parametrizations
from zoo_models import NETWORKS, images, traced

from hedgerow.sparsity import detach, frozen_weights, prunable_weights, shared_weights
from hedgerow.tracing import OPS, concrete, run, trace


def seeded(function):
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(11)
        return function()


def operations(graph):
    return {node.op for node in graph.nodes} - {"input", "constant"}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_of_every_reference_network_computes_its_logits(name):
    model, graph = traced(name)
    for n in (1, 3):
        x = images(n, 3, 16, 16, seed=n)
        # The same seed on both sides: some of them draw noise.
        expected, found = seeded(lambda x=x: model(x)), seeded(lambda x=x: run(graph, model, x))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    if not name.startswith("en"):
        assert not graph.unknown


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", list(CASES))
def test_the_graph_of_a_hand_written_module_computes_what_it_computes(name):
    model, draw = build(name)
    graph = trace(model, draw(1))
    assert operations(graph) == set(CASES[name][2].split())
    for n in (1, 3):
        x = draw(n)
        torch.testing.assert_close(run(graph, model, x.clone()), model(x.clone()), rtol=0, atol=1e-12)
        assert concrete(graph.output.shape, n) == model(x.clone()).shape


def test_the_cases_reach_the_whole_vocabulary():
    reached = {op for _, _, expected in CASES.values() for op in expected.split()}
    assert reached | {"input", "constant"} == set(OPS)


def test_the_documented_vocabulary_is_the_real_one():
    page = (Path(__file__).parents[2] / "docs" / "tracing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", page, flags=re.MULTILINE)
    assert dict(rows) == OPS
    assert len(rows) == len(OPS)


@pytest.mark.parametrize("name", ["vision transformer", "moving entries", "pools", "outside the vocabulary"])
def test_every_node_has_the_shape_it_says_for_every_batch_size(name, monkeypatch):
    model, draw = build(name)
    graph, seen = trace(model, draw(2)), []
    module = import_module("hedgerow.tracing.run")
    original = module.evaluate

    def recording(graph, model, node, inputs, batch):
        value = original(graph, model, node, inputs, batch)
        seen.append((node, value))
        return value

    monkeypatch.setattr(module, "evaluate", recording)
    for n in (1, 4):
        run(graph, model, draw(n))
        for node, value in seen:
            shape = value.shape if isinstance(value, torch.Tensor) else ()
            assert shape == concrete(node.shape, n), node
        assert len(seen) == len(graph.nodes) - 1
        seen.clear()


def test_gradients_reach_the_parameters_and_the_images():
    model, graph = traced("wrn-28-4")
    x = images(3, 3, 16, 16).requires_grad_()
    wanted = [x, *model.parameters()]
    expected = torch.autograd.grad(model(x).square().sum(), wanted)
    found = torch.autograd.grad(run(graph, model, x).square().sum(), wanted)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_masked_weight_is_one_live_parameter_under_its_own_name():
    model, masks = masked()
    dense, x = plain(), images(3, 3, 8, 8)
    graph = trace(model, images(2, 3, 8, 8))
    assert [(n.op, dict(n.weights), n.module) for n in graph.nodes] == [
        (n.op, dict(n.weights), n.module) for n in trace(dense, x).nodes
    ]
    torch.testing.assert_close(run(graph, model, x), model(x), rtol=0, atol=1e-12)
    name, mask = next(iter(masks.items()))
    assert torch.equal(graph.value(model, name) != 0, mask)
    run(graph, model, x).sum().backward()
    dense = prunable_weights(model)[name].dense
    assert dense.grad is not None
    assert not dense.grad[~mask].any()
    with torch.no_grad():
        dense.mul_(2.0)
    torch.testing.assert_close(run(graph, model, x), model(x), rtol=0, atol=1e-12)
    for weight in prunable_weights(model).values():
        detach(weight)
    torch.testing.assert_close(run(graph, model, x), model(x), rtol=0, atol=1e-12)


def test_tracing_works_wherever_a_step_may_be():
    model, _ = masked()
    x = images(2, 3, 8, 8)
    for context in (shared_weights, frozen_weights):
        with context(model):
            before = model(x)
            graph = trace(model, x)
            torch.testing.assert_close(run(graph, model, x), before, rtol=0, atol=1e-12)
    with shared_weights(model):
        loss = model(x).sum()
        trace(model, x)
        loss.backward()  # the mask that this graph saved has not been touched


def test_other_parametrizations_are_one_parameter_too():
    model = (
        nn.Sequential(parametrizations.weight_norm(conv()), parametrizations.spectral_norm(conv())).double().eval()
    )
    graph = trace(model, images(2, 4, 6, 6))
    assert [dict(n.weights) for n in graph.nodes[1:]] == [
        {"weight": f"{i}.weight", "bias": f"{i}.bias"} for i in (0, 1)
    ]
    torch.testing.assert_close(
        run(graph, model, images(2, 4, 6, 6)), model(images(2, 4, 6, 6)), rtol=0, atol=1e-12
    )


def test_nodes_tell_their_module_and_their_attributes():
    graph = traced("resnet20")[1]
    node = next(n for n in graph.nodes if n.module == "network.stages.1.0.conv1")
    assert (node.op, node.shape, dict(node.weights)) == (
        "conv",
        (-1, 8, 8, 8),
        {"weight": "network.stages.1.0.conv1.weight"},
    )
    assert node.attributes == {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    assert "network.stages.1.0.conv1" in node.where
    assert len(repr(graph.output)) < 300
    sums = [n.module for n in graph.nodes if n.op == "add"]
    assert sums == [f"network.stages.{s}.{b}" for s in range(3) for b in range(3)]
    assert [n.op for n in graph.nodes if n.module == "normalize"] == ["sub", "div"]
    assert graph.users()[graph.output] == ()
    assert graph.users()[graph.input][0].op == "sub"


def test_a_module_called_twice_gives_two_nodes_that_share_their_weights():
    model, draw = build("one module twice")
    graph = trace(model, draw(2))
    first, second = (n for n in graph.nodes if n.op == "conv")
    assert (first.module, dict(first.weights)) == (second.module, dict(second.weights))
    assert graph.shared() == dict.fromkeys(("c.weight", "c.bias"), (first.name, second.name))
    assert traced("cnn-small")[1].shared() == {}


def test_what_depends_on_the_images_is_known():
    model, draw = build("outside the vocabulary")
    graph = trace(model, draw(2))
    still = {n.attributes.get("aten", n.op) for n in graph.nodes if n not in graph.dependent()}
    assert still == {"constant", "aten.std.correction", "div", "aten.zeros.default"}


def test_noise_is_traced_and_not_compared():
    model = nn.Sequential(conv(), Counting()).double().eval()
    graph = trace(model, images(2, 4, 6, 6))
    assert "randn" in graph.unknown[0].where
    assert run(graph, model, images(3, 4, 6, 6)).shape == (3, 4, 6, 6)


def test_attention_across_the_batch_is_not_taken_for_attention():
    # batch_first was forgotten: the images attend to one another.
    model = Written(lambda s, x: s.a(x, x, x, need_weights=False)[0], a=nn.MultiheadAttention(4, 2)).eval()
    graph = trace(model, torch.rand(2, 3, 4))
    assert "sdpa" not in operations(graph)
    assert any("scaled_dot_product" in n.where for n in graph.unknown)
