"""What a traced network consists of: nodes in the order of computation, and the names of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hedgerow.errors import ModelError

Shape = tuple[int, ...]
"""Sizes of a tensor. A negative entry `-k` stands for `k` times the batch size, so `(-1, 16, 8, 8)` is a batch
of feature maps; 0 stands for a size that depends on the batch in any other way."""


@dataclass(frozen=True)
class Operand:
    """Where the arguments of an `unknown` node take the value of `inputs[index]`."""

    index: int


@dataclass(frozen=True)
class BatchSize:
    """Where the arguments of an `unknown` node take `factor` times the batch size."""

    factor: int


@dataclass(frozen=True, eq=False)
class Node:
    """One operation: `op` is a name of `OPS`, `inputs` are the nodes whose values it takes.

    `attributes` and `weights` hold the keys that `OPS` names for the operation; weights are given by their
    dotted names in the user's model. `module` is the dotted path of the innermost module whose forward pass
    made the node (empty for the model itself), `shape` the shape of the value. Nodes compare by identity.
    """

    name: str
    op: str
    inputs: tuple[Node, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    module: str = ""
    shape: Shape = ()
    weights: Mapping[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The node in the words of an error message: its operation and its module."""
        op = self.attributes["aten"] if self.op == "unknown" else self.op
        return f"{op} in {self.module!r}" if self.module else f"{op} in the model's own forward"

    def __repr__(self) -> str:
        # The inputs by name: a chain of whole inputs would print the network once per node.
        inputs = ", ".join(node.name for node in self.inputs)
        details = ", ".join(f"{k}={v}" for k, v in (*self.attributes.items(), *self.weights.items()))
        return f"{self.name} = {self.op}({inputs}) {list(self.shape)} [{self.module}] {details}".rstrip()


@dataclass(frozen=True, eq=False)
class Graph:
    """A network as nodes: `nodes` in the order of computation, the input first; `output` gives the result.

    Every node but the input leads to the output. `constants` holds the tensors that the forward pass makes
    itself and that no attribute of the model holds.
    """

    nodes: tuple[Node, ...]
    output: Node
    constants: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def input(self) -> Node:
        """The node that stands for the images."""
        return self.nodes[0]

    @property
    def unknown(self) -> tuple[Node, ...]:
        """The nodes outside the vocabulary, for whom nothing is known but how to compute them."""
        return tuple(node for node in self.nodes if node.op == "unknown")

    def users(self) -> dict[Node, tuple[Node, ...]]:
        """Return for every node the nodes that take its value, once per time they take it."""
        found: dict[Node, list[Node]] = {node: [] for node in self.nodes}
        for node in self.nodes:
            for operand in node.inputs:
                found[operand].append(node)
        return {node: tuple(users) for node, users in found.items()}

    def dependent(self) -> frozenset[Node]:
        """Return the nodes whose values depend on the images; the others are computed from weights alone."""
        found = {self.input}
        for node in self.nodes:
            if any(operand in found for operand in node.inputs):
                found.add(node)
        return frozenset(found)

    def shared(self) -> dict[str, tuple[str, ...]]:
        """Return the weights that more than one node uses (a module called twice), with these nodes' names."""
        found: dict[str, list[str]] = {}
        for node in self.nodes:
            for name in node.weights.values():
                found.setdefault(name, []).append(node.name)
        return {name: tuple(nodes) for name, nodes in found.items() if len(nodes) > 1}

    def held(self) -> frozenset[str]:
        """Return the names of the parameters and buffers that the operations use; constants are not among them."""
        return frozenset(name for node in self.nodes for name in node.weights.values()) - set(self.constants)

    def value(self, model: nn.Module, name: str) -> Tensor:
        """Return the parameter, buffer or constant `name` as `model` uses it now: masked, and with its graph.

        Raises `ModelError` when `model` has no such tensor.
        """
        if name in self.constants:
            return self.constants[name]
        path, _, attribute = name.rpartition(".")
        try:
            found = getattr(model.get_submodule(path), attribute)
        except AttributeError:
            found = None
        if not isinstance(found, Tensor):
            raise ModelError(
                f"{name}: {type(model).__name__} has no such parameter or buffer; use the graph with the model it "
                "was traced from, or trace this one"
            )
        return found

    def weights(self, model: nn.Module, node: Node) -> dict[str, Tensor]:
        """Return the live tensors of one node by their roles: `weight`, `bias`, `running_mean` ..."""
        return {role: self.value(model, name) for role, name in node.weights.items()}


def concrete(shape: Shape, batch: int) -> torch.Size:
    """Return `shape` for a batch of `batch` examples."""
    return torch.Size([size if size >= 0 else -size * batch for size in shape])
