"""Effective weights: a mask over the user's own layers, computed once per optimiser step.

The mechanism is `torch.nn.utils.parametrize`: no model is rewritten and none needs special layer types.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hedgerow.errors import ModelError
from hedgerow.sparsity.layers import PrunableWeight, held_attributes, prunable_weights
from hedgerow.sparsity.mask import Masks, match


class EffectiveWeight(nn.Module):
    """Base of the parametrizations: `effective(dense)` is what the layer uses in place of the stored weight.

    Inside `shared_weights` the value is computed once and handed to every forward; inside `frozen_weights`
    it is handed out detached, so that crafting an attack saves nothing for weight gradients.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shared: Tensor | None = None
        self._detached = False
        self._viewed = False

    def effective(self, dense: Tensor) -> Tensor:
        """Return the weight the layer is to use, of the shape of `dense`."""
        raise TypeError(f"{type(self).__name__} must define effective()")

    def sparse(self, dense: Tensor) -> Tensor:
        """Return the weight of the network that is evaluated; methods that train on another one define it."""
        return self.effective(dense)

    def forward(self, dense: Tensor) -> Tensor:
        """Return the shared value if there is one, else compute it."""
        if self._viewed:
            return self.sparse(dense)
        value = self.effective(dense) if self._shared is None else self._shared
        return value.detach() if self._detached else value


class MaskedWeight(EffectiveWeight):
    """`dense` where the mask is True, exactly 0 elsewhere; gradients are 0 there too."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def effective(self, dense: Tensor) -> Tensor:
        """Return `where(mask, dense, 0)`; with a full mask this is `dense`, bit for bit."""
        return torch.where(self.mask, dense, torch.zeros((), dtype=dense.dtype, device=dense.device))


def attach(weight: PrunableWeight, parametrization: EffectiveWeight) -> None:
    """Put a parametrization on one weight of the user's model; `ModelError` if another method still holds it."""
    if parametrize.is_parametrized(weight.module, weight.attribute):
        raise ModelError(
            f"{weight.name} is parametrized already; finish() the pruner that holds it, or take a fresh model"
        )
    parametrize.register_parametrization(weight.module, weight.attribute, parametrization)


def detach(weight: PrunableWeight) -> None:
    """Take the parametrization off again; the layer keeps the effective value as its plain weight."""
    if parametrize.is_parametrized(weight.module, weight.attribute):
        trainable = weight.dense.requires_grad
        value = getattr(weight.module, weight.attribute).detach().clone()
        parametrize.remove_parametrizations(weight.module, weight.attribute, leave_parametrized=False)
        plain = cast(nn.Parameter, getattr(weight.module, weight.attribute))
        with torch.no_grad():
            plain.copy_(value)
        plain.requires_grad_(trainable)
        _restore_order(weight.module)


def _restore_order(module: nn.Module) -> None:
    # Registered anew a weight would stand behind the bias, and an optimiser's saved state goes by position.
    first = [name for name in held_attributes(module) if name in module._parameters]
    order = dict.fromkeys([*first, *module._parameters])
    parameters = {name: module._parameters.pop(name) for name in order}
    module._parameters.update(parameters)


def attach_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Mask every prunable weight of `model` by `masks` (bool, one per weight, on any device).

    The stored weights are set to 0 under the mask, so that neither momentum nor weight decay finds anything there.
    """
    for name, weight in match(model, masks).items():
        mask = masks[name].to(weight.dense.device)
        with torch.no_grad():
            weight.dense.masked_fill_(~mask, 0.0)
        attach(weight, MaskedWeight(mask))


def effective_weights(model: nn.Module) -> Iterator[tuple[EffectiveWeight, Tensor]]:
    """Yield every parametrization of ours in `model` with the stored weight it acts on."""
    for module in model.modules():
        if isinstance(module, parametrize.ParametrizationList):
            for parametrization in module:
                if isinstance(parametrization, EffectiveWeight):
                    yield parametrization, module.original


@contextmanager
def shared_weights(model: nn.Module) -> Iterator[None]:
    """Compute every effective weight once, now; all forwards and the backward inside use that value.

    Leave the context before the optimiser steps: the value belongs to the weights it was computed from.
    A context inside another one shares the outer values.
    """
    mine = [(p, dense) for p, dense in effective_weights(model) if p._shared is None]
    try:
        for parametrization, dense in mine:
            parametrization._shared = parametrization.effective(dense)
        yield
    finally:
        for parametrization, _ in mine:
            parametrization._shared = None


@contextmanager
def replaced_weights(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the layers of `model` use `values` (by weight name) in place of their own weights in forwards inside.

    Gradients go to whatever the values were computed from. Only for forwards: while plain weights are replaced
    they are no parameters of the model. Raises `ModelError` for a weight under a parametrization not of ours.
    """
    weights = prunable_weights(model)
    unknown = [name for name in values if name not in weights]
    if unknown:
        raise ModelError(f"the model has no prunable weight {', '.join(unknown[:5])}; it has {', '.join(weights)}")
    slots = [_slot(weights[name]) for name in values]
    before = [holder[key] for holder, key in slots]
    try:
        for (holder, key), value in zip(slots, values.values(), strict=True):
            holder[key] = value
        yield
    finally:
        for (holder, key), original in zip(slots, before, strict=True):
            holder[key] = original


def _slot(weight: PrunableWeight) -> tuple[dict[str, Tensor | None], str]:
    """Return the dictionary and the key in it from which a layer takes its weight."""
    if not parametrize.is_parametrized(weight.module, weight.attribute):
        return cast("dict[str, Tensor | None]", weight.module._parameters), weight.attribute
    steps = list(cast(nn.ModuleDict, weight.module.parametrizations)[weight.attribute].children())
    if len(steps) != 1 or not isinstance(steps[0], EffectiveWeight):
        raise ModelError(
            f"{weight.name} is parametrized by {', '.join(type(step).__name__ for step in steps)}, and its weight "
            "cannot be replaced; remove that parametrization first"
        )
    return vars(steps[0]), "_shared"


@contextmanager
def sparse_view(model: nn.Module) -> Iterator[None]:
    """See the sparse network inside: what a method that trains a dense proxy (RVSM, ADMM) would hand over now."""
    ours = [p for p, _ in effective_weights(model)]
    for parametrization in ours:
        parametrization._viewed = True
    try:
        yield
    finally:
        for parametrization in ours:
            parametrization._viewed = False


@contextmanager
def frozen_weights(model: nn.Module) -> Iterator[None]:
    """Treat all parameters as constants inside: no graph to them is built, no gradient of theirs computed.

    Values shared by an enclosing `shared_weights` are reused; without one they are computed once here.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    ours = [p for p, _ in effective_weights(model)]
    before = [p._detached for p in ours]
    for parameter in trainable:
        parameter.requires_grad_(False)
    for parametrization in ours:
        parametrization._detached = True
    try:
        with shared_weights(model):
            yield
    finally:
        for parametrization, was in zip(ours, before, strict=True):
            parametrization._detached = was
        for parameter in trainable:
            parameter.requires_grad_(True)


def read_masks(model: nn.Module) -> Masks:
    """Return the masks of all `MaskedWeight`s attached to `model`, by weight name."""
    return {
        name: step.mask
        for name, weight in prunable_weights(model).items()
        if parametrize.is_parametrized(weight.module, weight.attribute)
        for step in cast(nn.ModuleDict, weight.module.parametrizations)[weight.attribute].children()
        if isinstance(step, MaskedWeight)
    }
