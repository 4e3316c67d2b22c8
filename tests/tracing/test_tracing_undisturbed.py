"""Tracing looks at a model and leaves nothing behind, whether it succeeds or fails."""

from __future__ import annotations

import pytest
import torch
from small_models import Counting, Written, conv, masked
from torch import nn
from zoo_models import images

from hedgerow.errors import ModelError
from hedgerow.tracing import run, trace


def state(model):
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return (
        {name: (id(t), type(t), t.requires_grad, t.detach().clone()) for name, t in tensors.items()},
        [(name, type(m), m.training, list(m._modules), list(m._parameters)) for name, m in model.named_modules()],
        torch.get_rng_state(),
    )


def assert_same(before, after):
    assert list(before[0]) == list(after[0])
    for name, (*identity, value) in before[0].items():
        *identity_after, value_after = after[0][name]
        assert identity == identity_after
        assert torch.equal(value, value_after)
    assert before[1] == after[1]
    assert torch.equal(before[2], after[2])


@pytest.mark.parametrize("fails", [False, True])
def test_tracing_leaves_the_model_as_it_was(fails):
    model = nn.Sequential(masked()[0], Counting(), nn.Dropout())
    model.train()
    model[0][1].eval()
    if fails:
        model.append(Written(lambda s, x: x if x.sum() > 0 else -x))
    x = images(2, 3, 8, 8)
    before, kept, drawn = state(model), x.clone(), model[1].generator.get_state()
    if fails:
        with pytest.raises(ModelError, match=r"module '3'.*decides by values"):
            trace(model, x)
    else:
        trace(model, x)
    assert_same(before, state(model))
    assert torch.equal(x, kept)
    assert torch.equal(model[1].generator.get_state(), drawn)


def test_a_module_that_writes_into_its_input_does_not_change_the_example():
    model = Written(lambda s, x: s.c(x.sub_(0.5)), c=conv()).double().eval()
    x = images(2, 4, 6, 6)
    kept = x.clone()
    graph = trace(model, x)
    assert torch.equal(x, kept)
    torch.testing.assert_close(run(graph, model, kept), model(x), rtol=0, atol=1e-12)
