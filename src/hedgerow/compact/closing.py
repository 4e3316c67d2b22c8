"""What a channel mask will allow to remove, and the step that makes dead channels constant zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hedgerow.compact.dead import settle
from hedgerow.compact.levels import Levels, Values
from hedgerow.compact.record import Removal, record
from hedgerow.compact.shrink import allowed_classes, check_multiple, live_values, search_for
from hedgerow.compact.wires import MIXING
from hedgerow.errors import ModelError
from hedgerow.tracing import Channels, Graph, channel_classes, trace


def removable(model: nn.Module, example: Tensor, masks: Mapping[str, Tensor], *, multiple_of: int = 1) -> Removal:
    """Return what `shrink` could remove once `model` is trained under `masks` and closed: a dry run.

    `masks` are by weight name, True is kept; each is as large as its weight or broadcasts to it (`[out, 1, 1, 1]`
    for filters). Nothing but the masks is taken as known: weights under them count as non-zero, shifts and
    statistics as any number, and dead channels as closed (`close_dead`). Numbers that the forward pass holds
    itself show only in `shrink`. Raises `ModelError` for a mask that fits no layer, and as `shrink` does.
    """
    check_multiple(multiple_of)
    graph = trace(model, example)
    channels = channel_classes(graph, model)
    values = _masked(graph, model, channels, masks)
    with torch.no_grad():
        allowed, reasons = allowed_classes(graph, channels, model)
        closed = _closable(graph, channels, values, model, allowed)
        search = search_for(graph, channels, Levels(graph, channels, values, closed), model)
        found, kept = settle(search, allowed, multiple_of)
        return record(graph, model, search, found, {**reasons, **kept})


def _masked(graph: Graph, model: nn.Module, channels: Channels, masks: Mapping[str, Tensor]) -> Values:
    called = {node.weights["weight"] for node in graph.nodes if node.op in MIXING}
    known: dict[str, Tensor] = {}
    for name in called | set(masks):
        if name not in called:
            raise ModelError(f"mask of {name}: no convolution or linear layer of the graph has this weight")
        shape, mask = graph.value(model, name).shape, masks.get(name, torch.ones(()))
        try:
            known[name] = (mask.detach().cpu() != 0).expand(shape).double()
        except RuntimeError:
            raise ModelError(f"mask of {name}: is {list(mask.shape)}, expected {list(shape)}") from None

    def values(name: str) -> Tensor:
        if name not in known:
            known[name] = torch.full_like(graph.value(model, name), torch.nan, dtype=torch.double, device="cpu")
        return known[name]

    return values


def close_dead(model: nn.Module, example: Tensor) -> dict[str, tuple[int, ...]]:
    """Zero the shifts of dead channels in place where this lets them be removed; return which, by tensor name.

    A filter without any live input still gives its bias, and behind a normalisation its shift: a constant.
    This sets that bias, shift and running mean to zero, so that the channel is zero for every image. It CHANGES
    the function: do it when a mask is baked, before fine-tuning. Channels that would stay all the same are not
    touched, nor those that `shrink` can remove as they are, unless closing them lets others go.

    Raises `ModelError` as `trace` does, and for a shift that is parametrized.
    """
    graph = trace(model, example)
    channels = channel_classes(graph, model)
    values = live_values(graph, model)
    with torch.no_grad():
        allowed, _ = allowed_classes(graph, channels, model)
        closed = _closable(graph, channels, values, model, allowed)
        levels = Levels(graph, channels, values, closed)
        changed = _to_zero(graph, channels, levels, values)
        for name in changed:
            _plain_owner(model, name)
        for name, each in changed.items():
            graph.value(model, name)[list(each)] = 0.0
    return changed


def _to_zero(graph: Graph, channels: Channels, levels: Levels, values: Values) -> dict[str, tuple[int, ...]]:
    changed: dict[str, set[int]] = {}
    for node, silent in levels.silent.items():
        shut = silent & levels.closed[channels.nodes[node.name][1]]
        for role in ("bias", "running_mean"):
            if role in node.weights:
                name = node.weights[role]
                changed.setdefault(name, set()).update((shut & (values(name) != 0)).nonzero().flatten().tolist())
    return {name: tuple(sorted(each)) for name, each in changed.items() if each}


def _plain_owner(model: nn.Module, name: str) -> None:
    path, _, attribute = name.rpartition(".")
    if parametrize.is_parametrized(model.get_submodule(path), attribute):
        raise ModelError(f"{name} is parametrized; bake it (detach its masks) before dead channels are closed")


def _closable(graph: Graph, channels: Channels, values: Values, model: nn.Module, allowed: Tensor) -> Tensor:
    """Return the classes to close: the fewer of two choices that lets the most go, none if that is as good."""

    def removed(closed: Tensor) -> Tensor:
        levels = Levels(graph, channels, values, closed)
        return search_for(graph, channels, levels, model)(allowed).removed

    def lasting(closed: Tensor) -> Tensor:
        # What stays although it is closed would have been changed for nothing.
        while not torch.equal(closed & removed(closed), closed):
            closed = closed & removed(closed)
        return closed

    none = torch.zeros_like(allowed)
    choices = [none, lasting(allowed & ~removed(none)), lasting(allowed)]
    return max(choices, key=lambda closed: int(removed(closed).sum()))
