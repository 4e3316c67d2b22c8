"""Looking at a model without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize


@contextmanager
def undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put `model` in eval mode; afterwards restore modes, buffers, and generators, its own and the global ones."""
    modes = [(m, m.training) for m in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if not is_lazy(buffer)
    ]
    own = [g for m in model.modules() for g in vars(m).values() if isinstance(g, torch.Generator)]
    states = [generator.get_state() for generator in own]
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            model.eval()
            yield
    finally:
        for module, training in modes:
            module.training = training
        for module, name, buffer, value in buffers:
            # Past autograd's version counter: a mask that an outer graph holds is the same before and after.
            buffer.data.copy_(value)
            module._buffers[name] = buffer
        for generator, state in zip(own, states, strict=True):
            generator.set_state(state)


@contextmanager
def plain_weights(model: nn.Module) -> Iterator[None]:
    """See every parametrized tensor of `model` as one plain parameter with its effective value.

    The module objects stay the same, whoever refers to them; afterwards their parametrizations are back.
    """
    saved: list[tuple[nn.Module, type[nn.Module], dict[str, nn.Module | None]]] = []
    try:
        for module in [m for m in model.modules() if parametrize.is_parametrized(m)]:
            names = list(cast(nn.ModuleDict, module.parametrizations))
            with torch.no_grad():
                values: dict[str, Tensor] = {name: getattr(module, name) for name in names}
            saved.append((module, type(module), dict(module._modules)))
            del module._modules["parametrizations"]
            module.__class__ = parametrize.type_before_parametrizations(module)
            for name, value in values.items():
                module._parameters[name] = nn.Parameter(value.detach())
        yield
    finally:
        for module, kind, children in saved:
            for name in cast(nn.ModuleDict, children["parametrizations"]):
                module._parameters.pop(name, None)
            module.__class__ = kind
            module._modules.clear()
            module._modules.update(children)
