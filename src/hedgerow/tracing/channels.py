"""Which channels of a network must be removed together, and which must stay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from hedgerow.errors import ModelError
from hedgerow.tracing.coupling import Coupling, Followed, State
from hedgerow.tracing.coupling_rules import couple
from hedgerow.tracing.nodes import Graph, Node


@dataclass(frozen=True)
class Channels:
    """The channel positions of a network in classes: who removes one position removes its whole class.

    All ids are int64 tensors on the CPU, classes are numbered `0 .. count - 1`.

    - `inputs[weight]` `[n_in]` and `outputs[weight]` `[n_out]`: the class of every index of axis 1 and axis 0 of
      each convolution and linear weight that the forward pass uses. After a flatten each channel's class comes
      once per position; in a grouped convolution index j of axis 1 stands for channel j of every group.
    - `parameters[name, axis]`: the same for every parameter and buffer that removal shortens: the above, biases,
      normalisation, constants.
    - `nodes[name]`: the axis of a node's value that holds channels, and the class of every position of it.
    - `fixed`: the classes that must stay, and `reasons` for each of them.

    Removal changes numbers that the graph has as attributes too: the sizes of a reshape, the bounds of a slice,
    the padding of a channel axis, the groups of a depthwise convolution.
    """

    count: int
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    fixed: frozenset[int]
    reasons: dict[int, str]
    parameters: dict[tuple[str, int], Tensor]
    nodes: dict[str, tuple[int, Tensor]]

    @property
    def removable(self) -> tuple[int, ...]:
        """The classes that may go, in order."""
        return tuple(k for k in range(self.count) if k not in self.fixed)


def channel_classes(graph: Graph, model: nn.Module) -> Channels:
    """Return the channel classes of `model`, whose graph is `graph`.

    A residual sum ties channels element by element, a concatenation strings them together, a depthwise
    convolution ties its outputs to its inputs; normalisation by channel, activations, pooling and arithmetic
    with constants pass them on. The channels of the images, the outputs of the model, and whatever passes
    through an operation for which removal cannot be proven are fixed.

    Raises `ModelError` when a weight of `model` has another shape than in the graph.
    """
    coupling = Coupling(lambda name: graph.value(model, name).shape, graph.dependent())
    states: dict[Node, State] = {}
    for node in graph.nodes:
        states[node] = couple(coupling, node, [states[operand] for operand in node.inputs])
    result = states[graph.output]
    if isinstance(result, Followed):
        coupling.keep(result.ids, "the outputs of the model")
    _check_shapes(coupling)
    return _classes(graph, model, coupling, states)


def _check_shapes(coupling: Coupling) -> None:
    for (name, axis), ids in coupling.parameters.items():
        shape = coupling.shape_of(name)
        if axis >= len(shape) or shape[axis] != len(ids):
            raise ModelError(
                f"{name} is {list(shape)}, but axis {axis} has {len(ids)} entries in the graph; trace this model"
            )


def _classes(graph: Graph, model: nn.Module, coupling: Coupling, states: dict[Node, State]) -> Channels:
    count, component = _components(coupling)
    parameters = {key: component[ids] for key, ids in coupling.parameters.items()}
    reasons: dict[int, str] = {}
    for ids, reason in coupling.kept:
        for each in component[ids].tolist():
            reasons.setdefault(each, reason)
    called = {node.weights["weight"] for node in graph.nodes if node.op in ("conv", "linear")}
    weights = [
        name
        for name, axis in parameters
        if axis == 1 and (name in called or (name not in graph.constants and _is_layer_weight(model, name)))
    ]
    return Channels(
        count=count,
        inputs={name: parameters[name, 1] for name in weights},
        outputs={name: parameters[name, 0] for name in weights},
        fixed=frozenset(reasons),
        reasons=reasons,
        parameters=parameters,
        nodes={n.name: (s.axis, component[s.ids]) for n, s in states.items() if isinstance(s, Followed)},
    )


def _is_layer_weight(model: nn.Module, name: str) -> bool:
    # A layer whose weight is computed with instead of being called is prunable all the same.
    path, _, attribute = name.rpartition(".")
    layers = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return attribute == "weight" and isinstance(model.get_submodule(path), layers)


def _components(coupling: Coupling) -> tuple[int, Tensor]:
    """Return how many classes the ties leave, and the class of every id."""
    pairs = [torch.stack([a.flatten(), b.flatten()]) for a, b in coupling.ties]
    ends = torch.cat([torch.empty(2, 0, dtype=torch.int64), *pairs], 1).numpy()
    size = (coupling.count, coupling.count)
    ties = coo_array((np.ones(ends.shape[1]), (ends[0], ends[1])), shape=size)
    count, labels = connected_components(ties, directed=False)
    return int(count), torch.from_numpy(labels.astype(np.int64))
