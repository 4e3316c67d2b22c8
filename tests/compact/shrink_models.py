"""Networks with dead channels, and shrinking without the time that a second trace takes."""

from __future__ import annotations

import copy
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from hedgerow.compact.dead import settle
from hedgerow.compact.levels import Levels
from hedgerow.compact.rebuild import rebuilt
from hedgerow.compact.record import record
from hedgerow.compact.shrink import allowed_classes, live_values, search_for
from hedgerow.models import build_model
from hedgerow.sparsity import prunable_weights
from hedgerow.tracing import channel_classes, trace

THIN = {
    "resnet20": {"width": 4},
    "preact-resnet18": {"width": 8},
    "mobilenet-v2": {"width": 0.25},
}


def images(n=3, size=16, seed=1):
    return torch.randn(n, 3, size, size, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


@cache
def zoo(name):
    """Return a thin network in double precision with random normalisation, and its graph."""
    torch.manual_seed(3)
    model = build_model(
        name,
        num_classes=5,
        channels=3,
        image_size=(16, 16),
        mean=[0.4, 0.5, 0.6],
        std=[0.2, 0.25, 0.3],
        options=THIN.get(name),
    )
    model = scattered(model.double().eval())
    return model, trace(model, images(2))


def scattered(model, seed=4):
    """Give every normalisation random statistics and a random affine map, on both sides of zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                for tensor, low in ((module.weight, 0.5), (module.running_var, 0.5)):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
                for tensor in (module.bias, module.running_mean):
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.7)
    return model


def random_masks(model, kind, density, seed=5):
    """Return masks of all prunable weights but the last: by single weight or by whole filter."""
    generator, masks = torch.Generator().manual_seed(seed), {}
    for name, weight in list(prunable_weights(model).items())[:-1]:
        shape = weight.dense.shape
        kept = shape if kind == "weight" else (shape[0], *[1] * (len(shape) - 1))
        masks[name] = (torch.rand(kept, generator=generator) < density).expand(shape)
    return masks


def masked(model, masks):
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
    return model


def quick(model, graph, multiple_of=1):
    """Return the smaller copy and the record, as `shrink` does, but for the proof by a second trace."""
    channels = channel_classes(graph, model)
    with torch.no_grad():
        search = search_for(graph, channels, Levels(graph, channels, live_values(graph, model)), model)
        allowed, reasons = allowed_classes(graph, channels, model)
        found, kept = settle(search, allowed, multiple_of)
        return rebuilt(model, search, found), record(graph, model, search, found, {**reasons, **kept})


class Mixed(nn.Module):
    """A user's network: a concatenation, a depthwise and a grouped convolution, a gate and a skip."""

    def __init__(self):
        super().__init__()
        self.act = F.relu
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.right_norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(12, 24, 3, padding=1, groups=12)
        self.grouped = nn.Conv2d(24, 12, 1, groups=2, bias=False)
        self.down, self.up = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.back = nn.Conv2d(12, 8, 3, padding=1)
        self.hidden, self.fc = nn.Linear(8 * 16, 10, bias=False), nn.Linear(10, 4)

    def forward(self, x):
        x = self.act(self.norm(self.stem(x)))
        y = torch.cat([self.act(self.left(x)), self.act(self.right_norm(self.right(x)))], 1)
        y = self.grouped(F.relu6(self.depthwise(y)) if self.act is F.relu else self.act(self.depthwise(y)))
        y = y * torch.sigmoid(self.up(self.act(self.down(y.mean((2, 3), keepdim=True)))))
        x = F.avg_pool2d(self.act(x + self.back(y)), 2)
        return self.fc(self.act(self.hidden(x.flatten(1))))


def mixed():
    torch.manual_seed(8)
    return scattered(Mixed().double().eval())
