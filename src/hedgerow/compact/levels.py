"""Channels that are one constant number whatever the image: found by walking the graph once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hedgerow.compact.wires import MIXING, Wire, all_wires, followed, groups_of, takes_channels
from hedgerow.tracing import Channels, Graph, Node, evaluate

Values = Callable[[str], Tensor]
"""The float64 tensor of a name on the CPU; NaN stands for a number that is not known yet."""

_VARIES = float("nan")
_BINARY = ("add", "sub", "mul", "div")
_NORMS = ("batch_norm", "group_norm")
_MOVES = ("reshape", "permute", "expand", "slice", "select", "cat", "mean", "amax")
_POOLS = ("max_pool", "adaptive_avg_pool", "adaptive_max_pool")
_BLIND = ("softmax", "log_softmax", "layer_norm")


class Levels:
    """The level of every followed channel: its constant value, or NaN where it varies with place or image.

    `of[node]` is float64 `[channels]`. A zero-padded convolution turns a constant that is not zero into
    something that varies at the border, so that it has no level. `closed` `[classes]` names classes in which a
    layer's shift counts as zero wherever nothing else enters.
    """

    def __init__(self, graph: Graph, channels: Channels, values: Values, closed: Tensor | None = None) -> None:
        self.channels, self.values, self._graph = channels, values, graph
        self.closed = torch.zeros(channels.count, dtype=torch.bool) if closed is None else closed
        self.of: dict[Node, Tensor] = {}
        self.factors: dict[Node, tuple[Tensor, Tensor]] = {}  # the levels of both operands of a product
        self.silent: dict[Node, Tensor] = {}  # where nothing but the shift of a layer is left
        wires = all_wires(graph, channels)
        for node in graph.nodes:
            if followed(channels, node):
                level = self._mixed(node) if node.op in MIXING else self._passed(node, wires[node])
                self.of[node] = torch.where(level.isfinite(), level, _VARIES)

    def _size(self, node: Node) -> int:
        return len(self.channels.nodes[node.name][1])

    def _weight(self, node: Node, role: str, default: float) -> Tensor:
        return self.values(node.weights[role]) if role in node.weights else torch.full((1,), default).double()

    def _close(self, node: Node, level: Tensor, silent: Tensor) -> Tensor:
        self.silent[node] = silent
        shut = silent & self.closed[self.channels.nodes[node.name][1]]
        return level.masked_fill(shut, 0.0)

    def _mixed(self, node: Node) -> Tensor:
        weight = self.values(node.weights["weight"])
        weight = weight.reshape(*weight.shape[:2], -1)
        given = torch.full((groups_of(node) * weight.shape[1],), _VARIES, dtype=torch.double)
        if takes_channels(self.channels, node):
            given = self.of[node.inputs[0]]
        if any(node.attributes.get("padding", ())):
            given = torch.where(given == 0, given, _VARIES)
        given = given.view(groups_of(node), 1, -1)
        rows = weight.view(groups_of(node), -1, *weight.shape[1:])
        read = (rows != 0).any(3)
        varies = (read & given.isnan()).any(2).view(-1)
        total = (rows.sum(3) * given.nan_to_num(0.0)).sum(2).view(-1) + self._weight(node, "bias", 0.0)
        return self._close(node, total.masked_fill(varies, _VARIES), ~(read & (given != 0)).any(2).view(-1))

    def _normed(self, node: Node, x: Tensor) -> Tensor:
        scale, shift = self._weight(node, "weight", 1.0), self._weight(node, "bias", 0.0)
        if node.op == "batch_norm":
            x = (x - self.values(node.weights["running_mean"])) / (
                self.values(node.weights["running_var"]) + node.attributes["eps"]
            ).sqrt()
        else:
            x = torch.where(x == 0, x, _VARIES)  # rounding speaks where the variance is nothing but rounding
        return torch.where(scale == 0, 0.0, scale * x) + shift

    def _passed(self, node: Node, wires: list[Wire]) -> Tensor:
        if node.op == "constant":
            return self.values(node.weights["value"]).reshape(-1).clone()
        if node.op == "input" or node.op in _BLIND:
            return torch.full((self._size(node),), _VARIES, dtype=torch.double)
        if node.op in _BINARY:
            return self._combined(node, wires)
        x = self._gathered(node, wires)
        if node.op in _NORMS:
            silent = (x == 0) | (self._weight(node, "weight", 1.0) == 0)
            return self._close(node, self._normed(node, x), silent)
        return self._mapped(node, x)

    def _mapped(self, node: Node, x: Tensor) -> Tensor:
        given = node.attributes
        if node.op in (*_MOVES, *_POOLS):
            return x
        if node.op == "avg_pool":
            whole = not any(given["padding"]) and not given["ceil"] and given["divisor"] is None
            return x if whole else torch.where(x == 0, x, _VARIES)
        if node.op == "sum":
            sizes = torch.tensor([node.inputs[0].shape[dim] for dim in given["dims"]])
            return torch.where(x == 0, x, x * sizes.prod() if bool((sizes > 0).all()) else _VARIES)
        if node.op == "pad":
            edges = any(
                any(pair) for i, pair in enumerate(given["pads"]) if i != self.channels.nodes[node.name][0]
            )
            same = (x == given["value"]) | (not edges) | (given["mode"] != "constant")
            return torch.where(same, x, _VARIES)
        if node.op == "prelu":
            slope = self.values(node.weights["weight"])
            return torch.where(x == 0, x, x.clamp(min=0) + slope * x.clamp(max=0))
        known = ~x.isnan()
        return torch.where(known, evaluate(self._graph, nn.Module(), node, [x.nan_to_num(0.0)], 1), _VARIES)

    def _gathered(self, node: Node, wires: list[Wire]) -> Tensor:
        """Return the one level that all wires bring to each channel; NaN where they differ or are missing."""
        size = self._size(node)
        low = torch.full((size,), torch.inf, dtype=torch.double)
        high = -low
        for wire in wires:
            level = self.of[node.inputs[wire.operand]][wire.source]
            low.scatter_reduce_(0, wire.target, level.nan_to_num(-torch.inf), "amin")
            high.scatter_reduce_(0, wire.target, level.nan_to_num(torch.inf), "amax")
        one = (low == high) & torch.tensor(node.op != "cat" or self._joins(node) or len(wires) == len(node.inputs))
        level = torch.where(one, low, _VARIES)
        if node.op == "pad":
            fresh = torch.ones(size, dtype=torch.bool)
            for wire in wires:
                fresh[wire.target] = False
            level[fresh] = node.attributes["value"]
        return level

    def _joins(self, node: Node) -> bool:
        return bool(node.attributes["dim"] == self.channels.nodes[node.name][0])

    def _combined(self, node: Node, wires: list[Wire]) -> Tensor:
        a, b = (self._operand(node, i, wires) for i in range(2))
        known = ~(a.isnan() | b.isnan())
        found = evaluate(self._graph, nn.Module(), node, [a.nan_to_num(1.0), b.nan_to_num(1.0)], 1)
        found = torch.where(known, found, _VARIES)
        if node.op == "mul":
            self.factors[node] = (a, b)
            found = found.masked_fill((a == 0) | (b == 0), 0.0)
        return found

    def _operand(self, node: Node, index: int, wires: list[Wire]) -> Tensor:
        operand, size = node.inputs[index], self._size(node)
        for wire in wires:
            if wire.operand == index:
                return self.of[operand]
        if operand.op == "constant":
            value = (
                self.values(operand.weights["value"])
                if operand.weights
                else torch.tensor(float(operand.attributes["value"]), dtype=torch.double)
            )
            if value.numel() == 1:
                return value.reshape(1).expand(size)
        return torch.full((size,), _VARIES, dtype=torch.double)
