"""Small networks as graphs, grown node by node, with weights in double precision."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from hedgerow.threat import ThreatModel
from hedgerow.tracing import Graph, Node, run
from hedgerow.tracing.run import RULES


class Garden:
    """A graph that grows from an input `[N, *shape]`; all random numbers come from the seed."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0) -> None:
        self.dice = torch.Generator().manual_seed(seed)
        self.model = nn.Module()
        self.nodes = [Node("x", "input", shape=(-1, *shape))]

    @property
    def last(self) -> Node:
        return self.nodes[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the last node without the batch axis."""
        return self.last.shape[1:]

    def graph(self) -> Graph:
        used = {self.last}
        for node in reversed(self.nodes):
            if node in used:
                used.update(node.inputs)
        return Graph((self.nodes[0], *(n for n in self.nodes[1:] if n in used)), self.last)

    def number(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=self.dice))

    def normal(self, *shape: int, spread: float = 1.0) -> Tensor:
        return spread * torch.randn(*shape, generator=self.dice, dtype=torch.float64)

    def add(self, op: str, *inputs: Node, weights: dict[str, Tensor] | None = None, **attributes: Any) -> Node:
        """Add a node; its shape is found by computing it once."""
        inputs = inputs or (self.last,)
        names = {}
        for role, value in (weights or {}).items():
            names[role] = f"w{len(self.nodes)}_{role}"
            if "running" in role:
                self.model.register_buffer(names[role], value)
            else:
                self.model.register_parameter(names[role], nn.Parameter(value))
        values = {role: getattr(self.model, name) for role, name in names.items()}
        points = [self._point(node) for node in inputs]
        shape = (-1, *RULES[op](*points, **attributes, **values).shape[1:])
        return self._put(Node(f"n{len(self.nodes)}", op, inputs, attributes, "", shape, names))

    def _point(self, node: Node) -> Any:
        if node.op != "constant":
            return torch.zeros(2, *node.shape[1:], dtype=torch.float64)
        return getattr(self.model, node.weights["value"]) if node.weights else node.attributes["value"]

    def _put(self, node: Node) -> Node:
        self.nodes.append(node)
        return node

    def shaped(self, op: str, node: Node, *shape: int) -> Node:
        """Add a node of a given shape: `reshape` or `expand`."""
        return self._put(Node(f"n{len(self.nodes)}", op, (node,), {}, "", (-1, *shape)))

    def constant(self, value: Tensor | float) -> Node:
        name = f"w{len(self.nodes)}"
        if not isinstance(value, Tensor):
            return self._put(Node(name, "constant", (), {"value": value}))
        self.model.register_parameter(name, nn.Parameter(value))
        return self._put(Node(name, "constant", (), {}, "", tuple(value.shape), {"value": name}))

    def linear(self, out: int, *, bias: bool = True, spread: float | None = None) -> Node:
        width = self.shape[-1]
        weights = {"weight": self.normal(out, width, spread=spread or width**-0.5)}
        return self.add("linear", weights=weights | ({"bias": self.normal(out, spread=0.3)} if bias else {}))

    def flat(self) -> Node:
        return self.shaped("reshape", self.last, math.prod(self.shape))


def dense(*widths: int, seed: int = 0, op: str = "relu", spread: float | None = None) -> tuple[Graph, nn.Module]:
    """A fully connected network on `[N, widths[0]]`."""
    garden = Garden(widths[:1], seed)
    for width in widths[1:-1]:
        garden.linear(width, spread=spread)
        garden.add(op)
    garden.linear(widths[-1])
    return garden.graph(), garden.model


def pixels(count: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Images in double precision, with many pixels at the ends of the range."""
    x = torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.where(x < 0.2, 0.0, torch.where(x > 0.85, 1.0, x))


def margins_at(graph: Graph, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """`logit_y - logit_j`, `[N, C]`, as they are."""
    logits = run(graph, model, x)
    return logits.gather(1, y.unsqueeze(1)) - logits


def smallest_margins(
    graph: Graph, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *, draws: int = 20, steps: int = 12
) -> Tensor:
    """The smallest margins that random points, corners and gradient descent on each of them find."""
    dice = torch.Generator().manual_seed(0)
    with torch.no_grad():
        best = margins_at(graph, model, x, y)
        for _ in range(draws):
            far = threat.project(x + 9 * torch.randn(x.shape, generator=dice, dtype=x.dtype).sign(), x)
            for point in (threat.random_start(x, dice), far):
                best = torch.minimum(best, margins_at(graph, model, point, y))
    for j in range(best.shape[1]):
        point = x
        for step in range(steps):
            point = point.detach().requires_grad_()
            found = margins_at(graph, model, point, y)
            best = torch.minimum(best, found.detach())
            (gradient,) = torch.autograd.grad(found[:, j].sum(), point, materialize_grads=True)
            moved = point.detach() - float(threat.eps) / (2 + step) * threat.steepest(gradient)
            point = threat.project(moved, x)
        best = torch.minimum(best, margins_at(graph, model, point, y).detach())
    return best
