"""Closing dead channels, and the dry run that tells before training what a mask will allow to remove."""

from __future__ import annotations

import copy

import pytest
import torch
from shrink_models import images, masked, mixed, quick, random_masks, zoo
from torch import nn

from hedgerow.compact import close_dead, removable, shrink
from hedgerow.errors import ModelError
from hedgerow.sparsity import attach_masks, prunable_weights
from hedgerow.tracing import trace

X = images(3, 8)


def small_net():
    torch.manual_seed(2)
    layers = [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Flatten(),
    ]
    model = nn.Sequential(*layers, nn.Linear(256, 2)).double().eval()
    with torch.no_grad():
        model[0].weight[[0, 2]] = 0.0
        model[1].bias.copy_(torch.tensor([0.5, 0.5, -0.5, 0.5]))
        model[1].running_mean.fill_(0.1)
        model[0].bias.fill_(0.1)
    return model


def test_closing_zeroes_what_stands_in_the_way_and_nothing_else():
    model = small_net()
    before = copy.deepcopy(model.state_dict())
    assert shrink(model, X).model[0].out_channels == 3  # channel 2 is below zero, and behind a ReLU
    assert close_dead(model, X) == {"0.bias": (0,), "1.bias": (0,), "1.running_mean": (0,)}
    changed = {name: (tensor != before[name]).nonzero().tolist() for name, tensor in model.state_dict().items()}
    assert {name: where for name, where in changed.items() if where} == {
        "0.bias": [[0]],
        "1.bias": [[0]],
        "1.running_mean": [[0]],
    }
    shrunk = shrink(model, X)
    assert shrunk.model[0].out_channels == 2
    assert not shrunk.removal.kept
    torch.testing.assert_close(shrunk.model(X), model(X), rtol=0, atol=1e-9)
    assert close_dead(model, X) == {}


def test_a_dense_network_and_a_dead_logit_have_nothing_to_close():
    model = copy.deepcopy(zoo("cnn-small")[0])
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    nn.init.zeros_(last.weight.data[2])
    before = copy.deepcopy(model.state_dict())
    assert close_dead(model, images(2)) == {}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("seed", "multiple"), [(0, 1), (1, 1), (1, 4)])
def test_the_dry_run_says_what_goes_after_closing(seed, multiple):
    model = mixed()
    masks = random_masks(model, "filter", 0.4, seed)
    planned = removable(model, X, masks, multiple_of=multiple)
    sparse = masked(model, masks)
    open_ = quick(sparse, trace(sparse, X), multiple)[1]
    close_dead(sparse, X)
    small, closed = quick(sparse, trace(sparse, X), multiple)
    with torch.no_grad():
        torch.testing.assert_close(small(X), sparse(X), rtol=0, atol=1e-9)
    assert open_.channels <= planned.channels <= closed.channels  # constants that fold depend on numbers
    if multiple == 1:
        for plan, layer in zip(planned.layers, closed.layers, strict=True):
            assert set(plan.removed) <= set(layer.removed), plan.weight
        assert planned.flops[1] >= closed.flops[1]
        assert planned.flops[0] == closed.flops[0]


def test_the_dry_run_knows_the_masks_alone():
    model = small_net()
    nothing = removable(model, X, {})
    assert nothing.channels == 0
    assert nothing.parameters[0] == nothing.parameters[1]
    mask = torch.tensor([True, False, True, True]).view(4, 1, 1, 1)
    plan = removable(model, X, {"0.weight": mask, "3.weight": mask})
    assert [layer.removed for layer in plan.layers] == [(1,), (1,), ()]
    assert [layer.inputs for layer in plan.layers] == [(3, 3), (4, 3), (256, 192)]
    assert plan.parameters == (112 + 8 + 148 + 514, 84 + 6 + 84 + 386)
    assert plan.flops == (2 * (64 * 27 * 4 + 64 * 36 * 4 + 512), 2 * (64 * 27 * 3 + 64 * 27 * 3 + 384))


def test_what_does_not_fit_is_said():
    model = small_net()
    with pytest.raises(ModelError, match=r"mask of 9\.weight: no convolution or linear layer"):
        removable(model, X, {"9.weight": torch.ones(4, 1, 1, 1)})
    with pytest.raises(ModelError, match=r"mask of 0\.weight: is \[5\], expected \[4, 3, 3, 3\]"):
        removable(model, X, {"0.weight": torch.ones(5)})
    with pytest.raises(ModelError, match="multiple_of"):
        removable(model, X, {}, multiple_of=0)
    nn.utils.parametrize.register_parametrization(model[1], "bias", nn.Identity())
    with pytest.raises(ModelError, match=r"1\.bias is parametrized; bake it"):
        close_dead(model, X)


def test_masks_that_are_attached_count_when_closing():
    model = small_net()
    with torch.no_grad():
        model[0].weight.fill_(0.3)
    mask = torch.ones(4, 3, 3, 3).bool()
    mask[3] = False
    masks = {name: torch.ones_like(weight.dense).bool() for name, weight in prunable_weights(model).items()}
    attach_masks(model, {**masks, "0.weight": mask})
    assert close_dead(model, X) == {"0.bias": (3,), "1.bias": (3,), "1.running_mean": (3,)}
