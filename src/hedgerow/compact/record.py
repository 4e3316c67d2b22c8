"""What a removal takes away, layer by layer, and which dead channels stay and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hedgerow.compact.dead import Findings, Search
from hedgerow.compact.wires import MIXING
from hedgerow.tracing import Channels, Graph, flops, plain_weights


@dataclass(frozen=True)
class LayerRemoval:
    """Channels of one convolution or linear layer: `(before, after)` of both axes, and the outputs that go."""

    weight: str
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    removed: tuple[int, ...]


@dataclass(frozen=True)
class KeptDead:
    """Output channels of a layer that have no effect or are constant, and stay all the same."""

    weight: str
    channels: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Removal:
    """All layers in the order of computation, the dead channels that stay, and `(before, after)` in numbers.

    `flops` are the dense FLOPs of one image, 2 per multiplication with its addition.
    """

    layers: tuple[LayerRemoval, ...]
    kept: tuple[KeptDead, ...]
    parameters: tuple[int, int]
    flops: tuple[int, int]

    @property
    def channels(self) -> int:
        """How many output channels go, over all layers."""
        return sum(len(layer.removed) for layer in self.layers)


def record(graph: Graph, model: nn.Module, search: Search, found: Findings, reasons: Mapping[int, str]) -> Removal:
    """Return what the removal of `found.removed` does; `reasons` name classes that were kept on purpose."""
    channels, layers = search.channels, {}
    kept: dict[tuple[str, str], list[int]] = {}
    for node in graph.nodes:
        if node.op not in MIXING or node.weights["weight"] in layers:
            continue
        name = node.weights["weight"]
        gone_in, gone_out = found.removed[channels.inputs[name]], found.removed[channels.outputs[name]]
        layers[name] = LayerRemoval(
            name, _count(gone_in), _count(gone_out), tuple(gone_out.nonzero().flatten().tolist())
        )
        ids = channels.nodes[node.name][1]
        dead = (~search.levels.of[node].isnan() | ~found.needed[node]) & ~found.removed[ids]
        for i in dead.nonzero().flatten().tolist():
            kept.setdefault((name, _reason(int(ids[i]), channels, found, reasons)), []).append(i)
    return Removal(
        layers=tuple(layers.values()),
        kept=tuple(KeptDead(name, tuple(each), reason) for (name, reason), each in kept.items()),
        parameters=_parameters(model, channels, found.removed),
        flops=_flops(graph, model, layers),
    )


def _count(gone: Tensor) -> tuple[int, int]:
    return len(gone), int((~gone).sum())


def _reason(each: int, channels: Channels, found: Findings, reasons: Mapping[int, str]) -> str:
    if each in reasons:
        return reasons[each]
    if each in channels.reasons:
        return channels.reasons[each]
    if found.live[each]:
        return "tied to channels that live, by a sum, a product, groups or a shared weight"
    return f"a constant other than zero, which {found.obstacle[each]} cannot take into a bias exactly"


def _parameters(model: nn.Module, channels: Channels, removed: Tensor) -> tuple[int, int]:
    before = after = 0
    with plain_weights(model):
        for name, parameter in model.named_parameters():
            left = list(parameter.shape)
            for axis in range(len(left)):
                if (name, axis) in channels.parameters:
                    left[axis] = int((~removed[channels.parameters[name, axis]]).sum())
            before, after = before + parameter.numel(), after + math.prod(left)
    return before, after


def _flops(graph: Graph, model: nn.Module, layers: Mapping[str, LayerRemoval]) -> tuple[int, int]:
    with torch.no_grad():
        counted = flops(graph, model)
    after = 0
    for layer in counted.layers:
        small = layers.get(layer.weight or "")
        kept = small.inputs[1] * small.outputs[1] if small else layer.inputs * layer.outputs
        after += 2 * layer.positions * layer.kernel * kept
    return counted.dense, after
