"""Shrunk networks equal the masked ones, over the reference networks and a user's module."""

from __future__ import annotations

import copy

import pytest
import torch
from shrink_models import images, masked, mixed, quick, random_masks, zoo
from torch import nn

from hedgerow.compact import shrink
from hedgerow.tracing import trace

NETWORKS = [
    *("cnn-small", "cnn-large", "vgg16-bn", "resnet20", "preact-resnet18", "wrn-28-4"),
    *("mobilenet-v2", "vit-tiny"),
]
PATTERNS = [
    ("weight", 0.1),
    ("weight", 0.05),
    ("weight", 0.01),
    ("filter", 0.5),
    ("filter", 0.25),
    ("filter", 0.1),
]


def gap(a, b, x):
    with torch.no_grad():
        return float((a(x) - b(x)).abs().max())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_small_network_computes_what_the_masked_one_does(name):
    model, graph = zoo(name)
    x = images(seed=7)
    for kind, density in PATTERNS:
        sparse = masked(model, random_masks(model, kind, density))
        small, removal = quick(sparse, graph)
        assert gap(small, sparse, x) <= 1e-9, (kind, density)
        if kind == "filter":  # single weights at random leave next to no channel dead
            assert removal.channels > 0
            assert removal.parameters[1] < removal.parameters[0]
        assert gap(quick(sparse.float(), graph)[0], sparse, x.float()) <= 1e-5, (kind, density)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_so_does_one_whose_logits_are_large(name):
    """Their logits reach 20 here, where float32 itself is off by more than 1e-5."""
    model, graph = zoo(name)
    x = images(seed=7)
    for kind, density in PATTERNS:
        sparse = masked(model, random_masks(model, kind, density))
        small, removal = quick(sparse, graph)
        assert gap(small, sparse, x) <= 1e-9, (kind, density)
        assert removal.channels > 0 or kind == "weight"
        with torch.no_grad():
            largest = float(sparse(x).abs().max())
        assert gap(quick(sparse.float(), graph)[0], sparse, x.float()) <= 2e-6 * largest, (kind, density)


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_goes_from_a_dense_network(name):
    model, graph = zoo(name)
    small, removal = quick(model, graph)
    assert removal.channels == 0
    assert removal.parameters[0] == removal.parameters[1]
    assert removal.flops[0] == removal.flops[1] > 0
    for key, tensor in small.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key])


@pytest.mark.parametrize("name", ["resnet20", "mobilenet-v2"])
def test_the_public_way_removes_as_much_and_proves_it(name):
    model, graph = zoo(name)
    sparse = masked(model, random_masks(model, "filter", 0.25))
    before = copy.deepcopy(sparse.state_dict())
    shrunk = shrink(sparse, images(2))
    expected = quick(sparse, graph)[1]
    assert shrunk.removal.layers == expected.layers
    assert shrunk.removal.kept == expected.kept
    assert not any("forward pass" in kept.reason for kept in shrunk.removal.kept)
    assert gap(shrunk.model, sparse, images(seed=7)) <= 1e-9
    assert all(torch.equal(tensor, before[key]) for key, tensor in sparse.state_dict().items())
    assert shrunk.removal.parameters == tuple(
        sum(p.numel() for p in m.parameters()) for m in (sparse, shrunk.model)
    )
    kinds = [[type(m) for m in model.modules()] for model in (sparse, shrunk.model)]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("seed", range(4))
def test_a_users_module_with_all_kinds_of_ties_shrinks_to_a_fixpoint(seed):
    model = mixed()
    graph, x = trace(model, images(2, 8)), images(3, 8, seed=9)
    sparse = masked(model, random_masks(model, "filter", 0.4, seed))
    small, removal = quick(sparse, graph)
    assert removal.channels > 4
    assert gap(small, sparse, x) <= 1e-9
    again, second = quick(small, trace(small, x[:2]))
    assert second.channels == 0
    assert gap(again, sparse, x) <= 1e-9


def test_dead_branches_and_dead_layers_leave_one_channel():
    model = mixed()
    graph, x = trace(model, images(2, 8)), images(3, 8, seed=9)
    with torch.no_grad():
        for layer in (model.back, model.right, model.hidden):
            layer.weight.zero_()
    small, removal = quick(model, graph)
    assert gap(small, model, x) <= 1e-9
    assert small.left.out_channels == 1
    assert small.depthwise.groups >= 1
    assert any(kept.reason == "no layer is left without any channel" for kept in removal.kept)
    assert removal.parameters[1] < 0.2 * removal.parameters[0]


def test_the_memory_format_stays():
    model, graph = zoo("resnet20")
    sparse = masked(model, random_masks(model, "filter", 0.5)).to(memory_format=torch.channels_last)
    small, removal = quick(sparse, graph)
    assert removal.channels > 0
    kernels = [w for w in small.parameters() if w.dim() == 4 and w.shape[1] > 1 and w.shape[2] > 1]
    assert kernels
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in kernels)
    plain = quick(masked(model, random_masks(model, "filter", 0.5)), graph)[0]
    assert all(w.is_contiguous() for w in plain.parameters())


def test_layers_describe_themselves_and_train_on():
    model = mixed()
    sparse = masked(model, random_masks(model, "filter", 0.4, 1))
    small = quick(sparse, trace(model, images(2, 8)))[0]
    for layer in small.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.shape[:2] == (layer.out_channels, layer.in_channels // layer.groups)
        elif isinstance(layer, nn.Linear):
            assert layer.weight.shape == (layer.out_features, layer.in_features)
        elif isinstance(layer, nn.BatchNorm2d):
            assert len(layer.running_var) == layer.num_features
    small.train()(images(3, 8)).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())
