"""The reference networks, pruned, computed from their non-zeros: the same logits as PyTorch's."""

from __future__ import annotations

import pytest
import torch
from runtime_nets import MACHINE, error, images, lowered, pruned, zoo

from hedgerow.errors import ModelError
from hedgerow.models import build_model
from hedgerow.runtime import Program, compile

NETWORKS = [
    *("cnn-small", "cnn-large", "resnet18", "resnet20", "vgg16-bn", "wrn-28-4", "preact-resnet18", "mobilenet-v2"),
    pytest.param("resnet50", marks=pytest.mark.slow),
]
PATTERNS = [(0.1, None), (0.05, None), (0.01, None), (0.1, "filters"), (0.05, "layer")]
COUNT = MACHINE.lanes + 3  # a group, and three images one by one


@pytest.mark.parametrize("name", NETWORKS)
def test_a_pruned_network_computes_what_pytorch_does(name):
    model, graph, size = zoo(name)
    x = images(COUNT, size)
    for density, dead in PATTERNS[:3] if name == "vgg16-bn" else PATTERNS:  # 15 million weights each time
        sparse = pruned(model, density, dead=dead)
        with torch.no_grad():
            expected = sparse(x)
        if density == 0.1 and dead is None:  # else an error in the first layers would go unseen
            assert float((expected - expected[:1]).abs().max() / expected.abs().max()) > 1e-3
        program = Program(lowered(sparse, graph), deterministic=True)
        found = program.predict(x)
        assert error(found, expected) < 2e-5, (density, dead)
        # Each image alone, and in another place of a group.
        assert error(program.predict(x[:1]), expected[:1]) < 2e-5, (density, dead)
        assert error(program.predict(x.flip(0)), expected.flip(0)) < 2e-5, (density, dead)


def test_a_dense_network_is_computed_too():
    model, graph, _ = zoo("resnet20")
    x = images(COUNT)
    with torch.no_grad():
        expected = model(x)
    assert error(Program(lowered(model, graph), deterministic=True).predict(x), expected) < 2e-5


def test_no_step_is_left_of_normalisation_and_relu():
    model, graph, _ = zoo("resnet18")
    network = lowered(pruned(model, 0.1), graph)
    kinds = [type(step).__name__ for step in network.steps]
    assert kinds.count("Conv") == 21  # 20 convolutions and the linear layer
    assert kinds.count("Pool") == 1
    assert "Affine" not in kinds


def test_what_cannot_be_run_is_named_with_its_module():
    options = {"hidden": 16, "heads": 2, "depth": 1}
    shape = {"num_classes": 3, "channels": 3, "image_size": (16, 16)}
    model = build_model("vit-tiny", **shape, mean=[0.5], std=[0.5], options=options)
    with pytest.raises(
        ModelError, match=r"cannot run .*layer_norm in '.*'.*sdpa in '.*'.*run this network with torch"
    ):
        compile(model, images(2))
