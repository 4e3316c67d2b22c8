"""The reference networks, thin where that changes nothing about their graph; each traced once for all tests."""

from __future__ import annotations

from functools import cache

import torch

from hedgerow.models import MODELS, build_model
from hedgerow.tracing import trace

SIZE = (16, 16)
# Those that are another one with other numbers, and give nothing new to a tracer.
TWINS = {"en1-resnet20", "en5-resnet20", "vit-small", "wrn-28-10"}
NETWORKS = [name for name in MODELS if name not in TWINS]
THIN = {
    "resnet18": {"width": 8},
    "preact-resnet18": {"width": 8},
    "resnet20": {"width": 4},
    "resnet50": {"width": 8},
    "wrn-28-4": {"depth": 10, "width": 1},
    "en2-resnet20": {"depth": 10},
    "vit-tiny": {"hidden": 8, "heads": 2, "depth": 1},
}


def zoo(name):
    """Return a network of five classes for 16x16 pixels, in double precision and eval mode."""
    model = build_model(
        name,
        num_classes=5,
        channels=3,
        image_size=SIZE,
        mean=[0.4, 0.5, 0.6],
        std=[0.2, 0.25, 0.3],
        options=THIN.get(name),
    )
    return model.double().eval()


@cache
def traced(name):
    """Return a network and its graph; who changes the network takes `zoo`."""
    model = zoo(name)
    return model, trace(model, images(2, 3, *SIZE))


def images(n, *shape, seed=1):
    return torch.rand(n, *shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))
