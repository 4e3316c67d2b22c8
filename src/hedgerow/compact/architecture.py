"""A traced network as JSON and back: operations of a closed vocabulary, so that loading executes nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hedgerow.errors import CheckpointError, ModelError
from hedgerow.tracing import OPS, Graph, Node, run

_ENDLESS = {"inf": math.inf, "-inf": -math.inf}


def graph_to_plain(graph: Graph) -> list[dict[str, Any]]:
    """Return the nodes as plain values for JSON; inputs are positions in the list, the output is its last use.

    Raises `ModelError` for an operation outside the vocabulary, whose meaning no file can hold.
    """
    if graph.unknown:
        node = graph.unknown[0]
        raise ModelError(
            f"{node.where} cannot be stored: it is outside the vocabulary of traced operations. Keep the weights "
            "alone (state_dict) and the model's own code"
        )
    place = {node: i for i, node in enumerate(graph.nodes)}
    return [
        {
            "op": node.op,
            "inputs": [place[operand] for operand in node.inputs],
            "attributes": {key: _plain(value, node) for key, value in node.attributes.items()},
            "weights": dict(node.weights),
            "shape": list(node.shape),
            "module": node.module,
            **({"output": True} if node is graph.output else {}),
        }
        for node in graph.nodes
    ]


def _plain(value: Any, node: Node) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(part, node) for part in value]
    if isinstance(value, float) and math.isinf(value):
        return {"float": "inf" if value > 0 else "-inf"}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ModelError(f"{node.where} cannot be stored: it has an attribute of type {type(value).__name__}")


def graph_from_plain(plain: Any, constants: Mapping[str, Tensor], what: str) -> Graph:
    """Return the graph of `graph_to_plain`; `CheckpointError` when the values are not a network."""
    nodes: list[Node] = []
    output = None
    try:
        for i, entry in enumerate(plain):
            if entry["op"] not in OPS or entry["op"] == "unknown" or not all(0 <= j < i for j in entry["inputs"]):
                raise ValueError(f"operation {entry['op']!r} with inputs {entry['inputs']}")
            node = Node(
                name=f"n{i}",
                op=entry["op"],
                inputs=tuple(nodes[j] for j in entry["inputs"]),
                attributes={str(key): _frozen(value) for key, value in entry["attributes"].items()},
                module=str(entry["module"]),
                shape=tuple(int(size) for size in entry["shape"]),
                weights={str(role): str(name) for role, name in entry["weights"].items()},
            )
            nodes.append(node)
            output = node if entry.get("output") else output
        if output is None or nodes[0].op != "input":
            raise ValueError("no input or no output")
    except (TypeError, KeyError, ValueError, IndexError, AttributeError) as error:
        raise CheckpointError(
            f"{what}: its architecture is not a network of known operations ({error}); the file was altered, or a "
            "newer version made it"
        ) from error
    return Graph(tuple(nodes), output, dict(constants))


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(part) for part in value)
    return _ENDLESS[value["float"]] if isinstance(value, dict) else value


class GraphNetwork(nn.Module):
    """A network that computes its graph: `[N, ...]` float images to `[N, classes]` logits.

    Weights have the names of the original model, so its `state_dict` and this one's fit each other. It is in
    eval mode for good: batch normalisation uses its running statistics, dropout is gone.
    """

    def __init__(self, graph: Graph, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.graph = graph
        for name, tensor in parameters.items():
            holder, attribute = self._holder(name)
            holder.register_parameter(attribute, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))
        for name, tensor in buffers.items():
            holder, attribute = self._holder(name)
            holder.register_buffer(attribute, tensor)
        self.eval()

    def _holder(self, name: str) -> tuple[nn.Module, str]:
        path, _, attribute = name.rpartition(".")
        holder: nn.Module = self
        for part in path.split(".") if path else ():
            if part not in holder._modules:
                holder.add_module(part, nn.Module())
            holder = holder.get_submodule(part)
        return holder, attribute

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        return run(self.graph, self, x)

    def train(self, mode: bool = True) -> GraphNetwork:
        """Stay in eval mode: the graph was traced in it."""
        del mode
        for module in self.modules():
            module.training = False
        return self


def missing_weights(graph: Graph, names: set[str]) -> list[str]:
    """Return the weights that the graph's nodes need and that are not among `names`, in order."""
    needed = [name for node in graph.nodes for name in node.weights.values()]
    return [name for name in dict.fromkeys(needed) if name not in names and name not in graph.constants]


def as_tensor(value: Any) -> Tensor:
    """Return a NumPy array as a tensor of its own memory."""
    return torch.from_numpy(value.copy())
