"""A copy of a model without some channels."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from hedgerow.compact.dead import Findings, Search
from hedgerow.compact.proof import expected_shape
from hedgerow.compact.wires import followed, groups_of, takes_channels
from hedgerow.errors import ModelError
from hedgerow.tracing import Node, plain_weights


def rebuilt(model: nn.Module, search: Search, found: Findings) -> nn.Module:
    """Return a copy of `model` without the removed classes; its weights are plain, masks and all applied.

    Raises `ModelError` when the model cannot be copied.
    """
    masked = {name: module for name, module in model.named_modules() if parametrize.is_parametrized(module)}
    kinds = {name: parametrize.type_before_parametrizations(module) for name, module in masked.items()}
    try:
        with plain_weights(model):
            small = deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}); take off what "
            "torch cannot deepcopy (hooks with state, tensors that are part of a computation) before shrinking"
        ) from error
    for name, kind in kinds.items():
        small.get_submodule(name).__class__ = kind
    old = {id(m): m.groups for m in small.modules() if isinstance(m, _ConvNd) and 1 < m.groups == m.in_channels}
    _fold(small, search, found)
    holders = _holders(small)
    shorter: dict[int, Tensor] = {}
    for (name, axis), ids in search.channels.parameters.items():
        kept = (~found.removed[ids]).nonzero().flatten()
        if len(kept) < len(ids):
            first = search.graph.value(small, name)
            now = shorter.get(id(first), first.detach())
            shorter[id(first)] = now.index_select(axis, kept.to(now.device))
    for key, tensor in shorter.items():
        _replace(holders[key], tensor)
    _describe(small, search, found.removed, old)
    return small


def _holders(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                found.setdefault(id(tensor), []).append((module, name))
    return found


def _replace(holders: list[tuple[nn.Module, str]], tensor: Tensor) -> None:
    module, name = holders[0]
    before = getattr(module, name)
    tensor = tensor.contiguous(memory_format=_format(before))
    if name in module._parameters:
        tensor = nn.Parameter(tensor, requires_grad=before.requires_grad)
    for module, name in holders:
        setattr(module, name, tensor)


def _format(tensor: Tensor) -> torch.memory_format:
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not tensor.is_contiguous() else torch.contiguous_format


def _fold(small: nn.Module, search: Search, found: Findings) -> None:
    """Add to the biases what removed constant channels contribute."""
    for node in search.graph.nodes:
        if node not in search.foldable or not takes_channels(search.channels, node):
            continue
        operand = node.inputs[0]
        level = search.levels.of[operand].nan_to_num(0.0)
        gone = torch.where(found.removed[search.channels.nodes[operand.name][1]], level, 0.0)
        weight = search.levels.values(node.weights["weight"])
        rows = weight.reshape(*weight.shape[:2], -1).sum(2).view(groups_of(node), -1, weight.shape[1])
        extra = (rows * gone.view(groups_of(node), 1, -1)).sum(2).view(-1)
        if bool((extra != 0).any()):
            stays = ~found.removed[search.channels.nodes[node.name][1]]
            _add_to_bias(small, node, extra, stays)


def _add_to_bias(small: nn.Module, node: Node, extra: Tensor, stays: Tensor) -> None:
    path, _, attribute = node.weights.get("bias", node.weights["weight"]).rpartition(".")
    owner = small.get_submodule(path)
    first = getattr(owner, attribute)
    with torch.no_grad():
        if "bias" in node.weights:
            first.data = (first.double() + extra.to(first.device)).to(first.dtype)
        else:
            # Nobody else knows of a new bias, so that it is made as short as it has to be.
            owner.bias = nn.Parameter(extra[stays].to(first), requires_grad=first.requires_grad)


def _describe(small: nn.Module, search: Search, removed: Tensor, depthwise: dict[int, int]) -> None:
    """Let every layer say of itself what its parameters now are."""
    for module in small.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, _ConvNd) and not module.transposed and isinstance(weight, Tensor):
            if id(module) in depthwise:
                module.groups = len(weight) * depthwise[id(module)] // module.out_channels
            module.out_channels, module.in_channels = len(weight), weight.shape[1] * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.PReLU):
            module.num_parameters = module.weight.numel()
        elif isinstance(module, _NormBase):
            known = weight if isinstance(weight, Tensor) else module.running_mean
            module.num_features = module.num_features if known is None else len(known)
    for node in search.graph.nodes:
        module = small.get_submodule(node.module)
        if node.op == "group_norm" and followed(search.channels, node):
            count = expected_shape(node, search.channels, removed)[1]
            if isinstance(module, nn.GroupNorm) and node.attributes["groups"] == node.shape[1]:
                module.num_groups, module.num_channels = count, count
            elif isinstance(module, _NormBase):
                module.num_features = count
