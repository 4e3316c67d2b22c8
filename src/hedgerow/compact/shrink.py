"""Exact shrinking: a smaller module that computes the same, without the channels that have no effect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hedgerow.compact.dead import Findings, Search, foldable_nodes, settle
from hedgerow.compact.levels import Levels, Values
from hedgerow.compact.proof import Answers, obstacle
from hedgerow.compact.rebuild import rebuilt
from hedgerow.compact.record import Removal, record
from hedgerow.compact.wires import MIXING
from hedgerow.errors import ModelError
from hedgerow.tracing import Channels, Graph, channel_classes, plain_weights, trace

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Shrunk:
    """The smaller module, and the record of what went and what stayed."""

    model: nn.Module
    removal: Removal


def shrink(model: nn.Module, example: Tensor, *, multiple_of: int = 1) -> Shrunk:
    """Return a copy of `model` without its dead channels, which in eval mode computes the same up to rounding.

    `example` is a batch `[N, ...]` as for `trace`. A channel is dead when nothing that matters reads it, or when
    it is constant zero, or another constant that every reader takes into its bias. Dead channels that cannot
    be proven removable stay and are named in the record, among them those whose number the forward pass holds
    itself. `multiple_of` rounds the kept outputs of every layer that loses some up (odd counts are slow under
    ONNX Runtime). Masks are applied for good; `model` is left as it is.

    Raises `ModelError` for a model that cannot be traced or copied, and for `multiple_of` below 1.
    """
    check_multiple(multiple_of)
    graph = trace(model, example)
    with torch.no_grad():
        return _shrunk(model, example, graph, channel_classes(graph, model), multiple_of)


def _shrunk(model: nn.Module, example: Tensor, graph: Graph, channels: Channels, multiple_of: int) -> Shrunk:
    search = search_for(graph, channels, Levels(graph, channels, live_values(graph, model)), model)
    allowed, reasons = allowed_classes(graph, channels, model)
    answers = Answers(model, example)
    said: list[str] = []

    def attempt(classes: Tensor) -> tuple[nn.Module, Findings, dict[int, str]] | None:
        found, kept = settle(search, classes, multiple_of)
        small = rebuilt(model, search, found)
        wrong = obstacle(small, example, graph, channels, found.removed, answers)
        said[:] = [wrong or ""]
        return None if wrong else (small, found, kept)

    done = attempt(allowed)
    if done is None:
        found, last = settle(search, allowed, 1)
        accepted, refused = _accepted(_by_layer(search, found), channels, attempt, said)
        done = attempt(accepted)
        reasons |= {**last, **refused}
    if done is None:
        raise ModelError(f"{type(model).__name__} cannot be shrunk: its copy differs, nothing removed: {said[0]}")
    small, found, kept = done
    removal = record(graph, model, search, found, {**reasons, **kept})
    count = sum(p.numel() for p in small.parameters())  # biases that were added included
    return Shrunk(small, Removal(removal.layers, removal.kept, (removal.parameters[0], count), removal.flops))


def _by_layer(search: Search, found: Findings) -> list[list[int]]:
    """Return the removed classes, those of one layer together."""
    groups, seen = [], set[int]()
    for node in search.graph.nodes:
        if node.op in MIXING:
            ids = search.channels.nodes[node.name][1]
            fresh = sorted(set(ids[found.removed[ids]].tolist()) - seen)
            groups += [fresh] if fresh else []
            seen.update(fresh)
    rest = sorted(set(found.removed.nonzero().flatten().tolist()) - seen)
    return [*groups, rest] if rest else groups


def _accepted(
    groups: list[list[int]], channels: Channels, attempt: Callable[[Tensor], object | None], said: list[str]
) -> tuple[Tensor, dict[int, str]]:
    """Return the classes of all groups with which the copy still works, found by halving, and why not others."""
    accepted = torch.zeros(channels.count, dtype=torch.bool)
    refused: dict[int, str] = {}

    def go(batch: list[list[int]]) -> None:
        trial = accepted.clone()
        trial[[each for group in batch for each in group]] = True
        if attempt(trial) is not None:
            accepted[:] = trial
        elif len(batch) == 1:
            refused.update(dict.fromkeys(batch[0], said[0]))
        else:
            go(batch[: len(batch) // 2])
            go(batch[len(batch) // 2 :])

    if groups:
        go(groups)
    return accepted, refused


def check_multiple(multiple_of: int) -> None:
    """Raise `ModelError` unless `multiple_of` is a whole number of at least 1."""
    if not isinstance(multiple_of, int) or isinstance(multiple_of, bool) or multiple_of < 1:
        raise ModelError(f"multiple_of is {multiple_of!r}; give a whole number of at least 1, such as 16")


def live_values(graph: Graph, model: nn.Module) -> Values:
    """Return the tensors of `model` as it uses them now, each fetched once, as float64 on the CPU."""
    cache: dict[str, Tensor] = {}

    def values(name: str) -> Tensor:
        if name not in cache:
            cache[name] = graph.value(model, name).detach().to("cpu", torch.double)
        return cache[name]

    return values


def search_for(graph: Graph, channels: Channels, levels: Levels, model: nn.Module) -> Search:
    """Return the search for dead channels at `levels`; layers of `model` without a bias can be given one."""
    bare = frozenset(
        f"{path}.weight" if path else "weight"
        for path, module in model.named_modules()
        if isinstance(module, _LAYERS) and module.bias is None
    )
    return Search(graph, channels, levels, foldable_nodes(graph, bare))


def allowed_classes(graph: Graph, channels: Channels, model: nn.Module) -> tuple[Tensor, dict[int, str]]:
    """Return which classes may go at all, bool `[classes]`, and why those of some parameters may not."""
    allowed = torch.zeros(channels.count, dtype=torch.bool)
    for _, ids in channels.nodes.values():
        allowed[ids] = True
    allowed[list(channels.fixed)] = False
    reasons: dict[int, str] = {}
    for (name, _), ids in channels.parameters.items():
        if name in graph.constants:
            reasons |= dict.fromkeys(ids.tolist(), f"the forward pass makes {name} itself")
    reasons |= _twins(graph, channels, model)
    allowed[list(reasons)] = False
    return allowed, reasons


def _twins(graph: Graph, channels: Channels, model: nn.Module) -> dict[int, str]:
    with plain_weights(model):
        names: dict[int, str] = {}
        found: dict[int, str] = {}
        for name, _ in channels.parameters:
            first = names.setdefault(id(graph.value(model, name)), name)
            if first != name:
                for (other, _), ids in channels.parameters.items():
                    if other in (first, name):
                        found |= dict.fromkeys(ids.tolist(), f"{first} and {name} are one tensor")
    return found
