"""Dead channels against the slow way: knock every channel out, one after the other, and look."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from shrink_models import images, masked, mixed, quick, random_masks
from torch import nn

from hedgerow.tracing import trace

X = images(6, 8, seed=11)


def answers(model, layer, channel=None):
    """Return what the model answers, with one channel of a layer set to noise, and what the layer gives."""
    seen = []

    def hook(_, __, out):
        seen.append(out.clone())
        if channel is not None:
            out = out.clone()
            noise = torch.Generator().manual_seed(channel)
            out[:, channel] = 20 * torch.randn(out[:, channel].shape, generator=noise, dtype=out.dtype)
        return out

    handle = layer.register_forward_hook(hook)
    with torch.no_grad():
        answer = model(X)
    handle.remove()
    return answer, seen[0]


def dead(model, layer):
    """Return the channels without any effect, and those that are the same number everywhere."""
    plain, values = answers(model, layer)
    count = values.shape[1]
    silent = {c for c in range(count) if torch.equal(answers(model, layer, c)[0], plain)}
    flat = values.transpose(0, 1).reshape(count, -1)
    return silent, {c for c in range(count) if float(flat[c].max() - flat[c].min()) < 1e-12}


def empty(module):
    """Return the channels whose filter is all zero."""
    return {c for c, row in enumerate(module.weight) if not row.any()}


@pytest.mark.parametrize(
    ("kind", "density"), [("filter", 0.5), ("filter", 0.25), ("weight", 0.1), ("weight", 0.03)]
)
def test_the_dead_channels_are_those_that_a_knock_out_finds(kind, density):
    model = mixed()
    graph, found = trace(model, X[:2]), 0
    for seed in range(3):
        sparse = masked(model, random_masks(model, kind, density, seed))
        removal = quick(sparse, graph)[1]
        kept = {}
        for each in removal.kept:
            kept.setdefault(each.weight, set()).update(each.channels)
        for layer in removal.layers:
            module = sparse.get_submodule(layer.weight.removesuffix(".weight"))
            silent, constant = dead(sparse, module)
            assert set(layer.removed) <= silent | constant, layer.weight
            # A ReLU can hide a live channel on these few images; nothing hides behind one that is injective.
            sparse.act = F.leaky_relu
            obvious = dead(sparse, module)[0] | empty(module)
            sparse.act = F.relu
            assert obvious <= set(layer.removed) | kept.get(layer.weight, set()), layer.weight
            found += len(layer.removed)
    assert found > 5


def test_the_oracle_sees_live_channels():
    model = mixed()
    assert dead(model, model.stem) == (set(), set())
    nn.init.zeros_(model.stem.weight[3].data)
    assert dead(model, model.stem)[1] == {3}
