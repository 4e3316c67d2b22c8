"""The steps of a network as they are found, each operation going into the step before it where it can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hedgerow.runtime.network import Network
from hedgerow.runtime.steps import Affine, Conv, Floats, Shape, Step
from hedgerow.tracing import Graph, Node, evaluate

Numbers = NDArray[np.float64]


class SparseWeight(Protocol):
    """A tensor by its non-zeros: `positions` ascending in its flat order."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole tensor."""

    @property
    def positions(self) -> NDArray[np.int64]:
        """Where the non-zeros are."""

    @property
    def values(self) -> Floats:
        """The non-zeros."""


Weights = Mapping[str, Tensor | SparseWeight]


class RefusedError(Exception):
    """The runtime has no step for a node; the message says why, where its operation alone does not."""


def require(condition: bool, reason: str = "") -> None:
    """Raise `RefusedError` unless the condition holds."""
    if not condition:
        raise RefusedError(reason)


class Fusing:
    """The steps of `graph` so far; `value` has the activation of every node that depends on the images."""

    def __init__(self, graph: Graph, weights: Weights, image: Shape) -> None:
        self.weights: Weights = {**weights, **graph.constants}
        # A graph takes its constants before a model's tensors, so that it needs no model here.
        self.graph = Graph(graph.nodes, graph.output, cast(Mapping[str, Tensor], self.weights))
        self.users, self.dependent = graph.users(), graph.dependent()
        self.shapes, self.value = [image], {graph.input: 0}
        self.scale, self.shift = np.ones(image[0]), np.zeros(image[0])
        self._steps: list[Step] = []
        self._made: dict[int, int] = {}

    def network(self) -> Network:
        """Return what was found."""
        scale, shift = self.scale.astype(np.float32), self.shift.astype(np.float32)
        return Network(tuple(self.shapes), tuple(self._steps), scale, shift, self.value[self.graph.output])

    def new(self, shape: Shape) -> int:
        """Return the number of a new activation."""
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def add(self, step: Step) -> int:
        """Append a step; return the activation that it makes."""
        self._made[step.target] = len(self._steps)
        self._steps.append(step)
        return step.target

    def shape(self, node: Node) -> Shape:
        """Return the shape of a node's activation."""
        return self.shapes[self.value[node]]

    def constant(self, node: Node) -> Tensor:
        """Return the value of a node that does not depend on the images, in double precision."""
        inputs = [self.constant(operand) for operand in node.inputs]
        return torch.as_tensor(evaluate(self.graph, cast(Any, None), node, inputs, 1), dtype=torch.float64)

    def numbers(self, node: Node, role: str) -> Numbers | None:
        """Return a weight of a node in double precision; None where the node has none of that role."""
        if role not in node.weights:
            return None
        found = self.weights[node.weights[role]]
        require(isinstance(found, Tensor), f"its {role} is stored by its non-zeros alone")
        return cast(Numbers, cast(Tensor, found).detach().cpu().double().numpy())

    def affine(self, node: Node, operand: Node, scale: Numbers | float, shift: Numbers | float) -> int:
        """Return `scale * operand + shift`, with one number per channel or one for all."""
        source, channels = self.value[operand], self.shape(operand)[0]
        sizes = {np.size(scale), np.size(shift)} - {1}
        require(sizes <= {channels}, "with one number for every pixel")
        a, b = (np.broadcast_to(np.asarray(each, np.float64).ravel(), channels) for each in (scale, shift))
        step = self._changeable(operand)
        if step is not None and (step.low, step.high) == (-inf, inf):
            if isinstance(step, Conv) and (step.residual is None or bool((a == 1).all())):
                return self._change(step, taps=step.taps.scaled(a), bias=_single(step.bias * a + b))
            if isinstance(step, Affine) and step.other is None:
                return self._change(step, scale=_single(step.scale * a), shift=_single(step.shift * a + b))
        if source == 0 and self._alone(operand):
            self.scale, self.shift = self.scale * a, self.shift * a + b
            return source
        return self.add(Affine(node.module, source, self.new(self.shapes[source]), _single(a), _single(b)))

    def clip(self, node: Node, operand: Node, low: float, high: float) -> int:
        """Return the operand within `[low, high]`."""
        step = self._changeable(operand)
        if step is not None:
            return self._change(step, low=min(max(step.low, low), high), high=min(max(step.high, low), high))
        source = self.value[operand]
        return self.add(replace(self._copy(node, source), low=low, high=high))

    def sum(self, node: Node) -> int:
        """Return the sum of the node's two operands, both computed."""
        values = [self.value[operand] for operand in node.inputs]
        require(self.shapes[values[0]] == self.shapes[values[1]], "of two different shapes")
        made = [self._made.get(value, -1) for value in values]
        # Of two convolutions the later takes the sum: the result of the other is there by then.
        for i in sorted(range(2), key=lambda i: -made[i]):
            step = self._changeable(node.inputs[i])
            free = isinstance(step, Conv) and step.residual is None and (step.low, step.high) == (-inf, inf)
            if step is not None and free and made[1 - i] < made[i]:
                return self._change(step, residual=values[1 - i])
        return self.add(replace(self._copy(node, values[0]), other=values[1]))

    def _copy(self, node: Node, source: int) -> Affine:
        shape = self.shapes[source]
        ones = np.ones(shape[0], np.float32)
        return Affine(node.module, source, self.new(shape), ones, np.zeros_like(ones))

    def _alone(self, node: Node) -> bool:
        """Whether nobody but the one who asks takes the value of `node`."""
        if len(self.users[node]) != 1 or node is self.graph.output:
            return False
        return node.op != "reshape" or self._alone(node.inputs[0])

    def _changeable(self, node: Node) -> Conv | Affine | None:
        """Return the convolution or affine step that makes the value of `node`, if nobody else takes it."""
        index = self._made.get(self.value[node])
        step = self._steps[index] if index is not None and self._alone(node) else None
        return step if isinstance(step, Conv | Affine) else None

    def _change(self, step: Step, **fields: Any) -> int:
        self._steps[self._made[step.target]] = replace(step, **fields)
        return step.target


def _single(numbers: Any) -> Floats:
    return cast(Floats, np.asarray(numbers, np.float32))
