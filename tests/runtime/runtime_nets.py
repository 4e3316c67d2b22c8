"""Sparse networks with random normalisation, traced once, and single steps without any tracing."""

from __future__ import annotations

import copy
from functools import cache
from math import prod

import numpy as np
import torch
from torch import nn

from hedgerow.models import build_model
from hedgerow.runtime import Conv, Network, Program, Taps, detect, lower_model
from hedgerow.sparsity import prunable_weights
from hedgerow.tracing import trace

THIN = {
    "mobilenet-v2": {"width": 0.25},
    "resnet20": {"width": 8},
    "wrn-28-4": {"depth": 10, "width": 1},
    **{name: {"width": 16} for name in ("preact-resnet18", "resnet18", "resnet50")},
}
MACHINE = detect()


def images(count, size=16, seed=1):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@cache
def zoo(name):
    """Return a thin network whose normalisation has random statistics, its graph, and its images' size."""
    size = 32 if name == "vgg16-bn" else 16
    model = build_model(
        name,
        num_classes=7,
        channels=3,
        image_size=(size, size),
        mean=[0.4, 0.5, 0.6],
        std=[0.2, 0.25, 0.3],
        options=THIN.get(name),
    )
    dice = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low in ((module.weight, 0.5), (module.running_var, 0.5)):
                    tensor.copy_(torch.rand(tensor.shape, generator=dice) + low)
                for tensor in (module.bias, module.running_mean):
                    tensor.copy_(torch.randn(tensor.shape, generator=dice) * 0.2)
    return model.eval(), trace(model, images(2, size)), size


def pruned(model, density, *, dead=None, seed=5):
    """Return a copy with random weights removed and what is left as strong together as before.

    `dead` is `filters`, every other output channel of each layer, or `layer`, one whole layer in the middle.
    """
    sparse, dice = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    weights = list(prunable_weights(sparse).items())
    with torch.no_grad():
        for place, (name, weight) in enumerate(weights):
            tensor = sparse.get_parameter(name)
            mask = torch.rand(weight.dense.shape, generator=dice) < density
            if dead == "filters" and place < len(weights) - 1:
                mask[::2] = False
            if dead == "layer" and place == len(weights) // 2:
                mask[:] = False
            tensor.mul_(mask / density**0.5)
    return sparse


def lowered(model, graph):
    """Return the network of a model that has been traced already."""
    return lower_model(graph, model)


def error(found, expected):
    """Return the largest difference relative to the largest logit."""
    return float((torch.as_tensor(found) - expected).abs().max() / expected.abs().max().clamp(min=1e-6))


def taps(weight):
    """Return the non-zeros of a dense weight."""
    flat = np.asarray(weight, np.float32).reshape(-1)
    positions = np.flatnonzero(flat)
    return Taps.of(np.shape(weight), positions, flat[positions])


def read_out(source, shape):
    """Return the step that gives every pixel of a map as a logit."""
    size = prod(shape)
    every = Taps(np.arange(size + 1), np.arange(size), np.ones(size, np.float32))
    return Conv("out", source, source + 1, every, np.zeros(size, np.float32), shape[1:])


def network_of(steps, shapes):
    """Return a network that ends with the map of the last of `shapes`."""
    count = shapes[0][0]
    out = read_out(len(shapes) - 1, shapes[-1])
    shapes = (*shapes, (prod(shapes[-1]), 1, 1))
    scale, shift = np.ones(count, np.float32), np.zeros(count, np.float32)
    return Network(shapes, (*steps, out), scale, shift, len(shapes) - 1)


def computed(network, x, machine=MACHINE, **options):
    """Return what a program makes of images, by rule and not by measurement."""
    return Program(network, machine=machine, **{"deterministic": True, **options}).predict(x)
