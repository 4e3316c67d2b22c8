"""Layers that use given values in place of their weights, for as long as a context lasts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hedgerow.errors import ModelError
from hedgerow.sparsity import attach_masks, prunable_weights, replaced_weights, shared_weights


def network(masked: bool) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    if masked:
        attach_masks(model, {n: torch.rand(w.dense.shape) < 0.7 for n, w in prunable_weights(model).items()})
    return model


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_layers_use_the_values_and_then_their_own_again(masked: bool, shared: bool) -> None:
    model, x = network(masked), torch.rand(5, 4)
    before, names = model(x), [n for n, _ in model.named_parameters()]
    values = {"0.weight": torch.rand(3, 4, requires_grad=True), "2.weight": torch.rand(2, 3)}
    with shared_weights(model if shared else nn.Identity()), replaced_weights(model, values):
        found = model(x)
    expected = torch.tanh(x @ values["0.weight"].T + model[0].bias) @ values["2.weight"].T + model[2].bias
    assert torch.allclose(found, expected, atol=1e-6)
    found.sum().backward()
    assert values["0.weight"].grad is not None
    assert model[0].bias.grad is not None
    assert all(weight.dense.grad is None for weight in prunable_weights(model).values())
    assert torch.equal(model(x), before)
    assert [n for n, _ in model.named_parameters()] == names
    assert all(isinstance(parameter, nn.Parameter) for parameter in model.parameters())


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_go_on_to_what_the_values_were_made_of(masked: bool) -> None:
    model, x = network(masked), torch.rand(5, 4)
    own = {n: getattr(w.module, w.attribute) for n, w in prunable_weights(model).items()}
    with replaced_weights(model, {n: 2 * value for n, value in own.items()}):
        model(x).sum().backward()
    for name, weight in prunable_weights(model).items():
        assert weight.dense.grad is not None
        removed = own[name] == 0
        assert (weight.dense.grad[removed] == 0).all()
        assert weight.dense.grad.any()


@pytest.mark.parametrize("masked", [False, True])
def test_an_error_inside_puts_the_weights_back(masked: bool) -> None:
    model, x = network(masked), torch.rand(5, 4)
    before = model(x)
    with pytest.raises(KeyError), replaced_weights(model, {"0.weight": torch.zeros(3, 4)}):
        raise KeyError
    assert torch.equal(model(x), before)


def test_an_unknown_weight_is_named() -> None:
    with pytest.raises(ModelError, match=r"no prunable weight 7\.weight; it has 0\.weight, 2\.weight"):  # noqa: SIM117
        with replaced_weights(network(False), {"7.weight": torch.zeros(1)}):
            pass


def test_a_weight_under_two_parametrizations_is_refused() -> None:
    model = network(True)
    nn.utils.parametrize.register_parametrization(model[0], "weight", nn.Identity())
    with pytest.raises(ModelError, match=r"0\.weight is parametrized by MaskedWeight, Identity"):  # noqa: SIM117
        with replaced_weights(model, {"0.weight": torch.zeros(3, 4)}):
            pass
