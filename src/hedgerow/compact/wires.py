"""Which channel of an operation's result comes from which channel of its operands."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hedgerow.tracing import Channels, Graph, Node

MIXING = ("conv", "linear")
"""Operations whose every result channel is a weighted sum of operand channels."""


@dataclass(frozen=True)
class Wire:
    """Channel `target[i]` of a result depends on the channels of its operand through `source[i]` alone."""

    operand: int
    source: Tensor
    target: Tensor


def followed(channels: Channels, node: Node) -> bool:
    """Tell whether the channels of a node's value are known position by position."""
    return node.name in channels.nodes


def groups_of(node: Node) -> int:
    """Return the groups of a convolution; a linear layer has one."""
    return int(node.attributes.get("groups", 1))


def takes_channels(channels: Channels, node: Node) -> bool:
    """Tell whether a mixing node sums over the channels that are followed in its operand."""
    axis = 1 if node.op == "conv" else len(node.shape) - 1
    return followed(channels, node.inputs[0]) and channels.nodes[node.inputs[0].name][0] == axis


def all_wires(graph: Graph, channels: Channels) -> dict[Node, list[Wire]]:
    """Return the wires of every node that does not mix channels; operands without one are not followed."""
    return {n: _wires(channels, n) for n in graph.nodes if followed(channels, n) and n.op not in MIXING}


def _wires(channels: Channels, node: Node) -> list[Wire]:
    axis, ids = channels.nodes[node.name]
    found, start = [], 0
    for i, operand in enumerate(node.inputs):
        if not followed(channels, operand):
            start += operand.shape[axis] if node.op == "cat" and node.attributes["dim"] == axis else 0
            continue
        own, positions = channels.nodes[operand.name][0], torch.arange(len(channels.nodes[operand.name][1]))
        if node.op == "reshape":
            found.append(_reshaped(node, operand, own, axis))
        elif node.op == "cat" and node.attributes["dim"] == axis:
            found.append(Wire(i, positions, positions + start))
            start += len(positions)
        elif node.op == "slice" and node.attributes["dim"] == axis:
            taken = positions[node.attributes["start"] : node.attributes["stop"]]
            found.append(Wire(i, taken, torch.arange(len(taken))))
        elif node.op == "pad":
            found.append(Wire(i, positions, positions + node.attributes["pads"][axis][0]))
        elif len(positions) == len(ids) and _aligned(node, operand, own, axis):
            found.append(Wire(i, positions, positions))
    return found


def _aligned(node: Node, operand: Node, own: int, axis: int) -> bool:
    # What arithmetic broadcasts along another axis is no channel of the result.
    broadcast = node.op in ("add", "sub", "mul", "div")
    return not broadcast or own + len(node.shape) - len(operand.shape) == axis


def _reshaped(node: Node, operand: Node, own: int, axis: int) -> Wire:
    batched = operand.shape[0] == -1 and node.shape[0] == -1
    before, after = (shape[1:] if batched else shape for shape in (operand.shape, node.shape))
    source = _positions(before, own - batched).reshape(-1)
    target = _positions(after, axis - batched).reshape(-1)
    pairs = torch.unique(torch.stack([source, target]), dim=1)
    return Wire(0, pairs[0], pairs[1])


def _positions(shape: tuple[int, ...], axis: int) -> Tensor:
    """Return the index along `axis` of every entry of a tensor."""
    line = [1] * len(shape)
    line[axis] = shape[axis]
    assert math.prod(shape) > 0
    return torch.arange(shape[axis]).view(line).expand(shape)
