"""A traced network made ready for bounds: its nodes with the weights they have now, in one number format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from hedgerow.bounds import affine, moves
from hedgerow.bounds.affine import Affine, Given
from hedgerow.bounds.curves import Bent, Clip, Curve
from hedgerow.bounds.maxima import max_pool
from hedgerow.bounds.sigmoids import sigmoid, tanh
from hedgerow.errors import ModelError
from hedgerow.stochastic import is_stochastic
from hedgerow.tracing import Graph, Node, concrete
from hedgerow.tracing.run import RULES, SHAPED

Statistics = Mapping[Node, tuple[Tensor, Tensor]]
"""Mean and variance that a batch norm is to use in place of its running statistics."""

AFFINE: dict[str, Callable[[Given], Affine]] = {
    "conv": affine.conv,
    "conv_transpose": affine.conv_transpose,
    "linear": affine.linear,
    "batch_norm": affine.batch_norm,
    "matmul": affine.matmul,
    "pad": moves.pad,
    "add": moves.joined,
    "sub": moves.joined,
    "cat": moves.cat,
    "mul": moves.scaled,
    "div": moves.scaled,
    "avg_pool": moves.plain,
    "adaptive_avg_pool": moves.plain,
    "mean": moves.plain,
    "sum": moves.plain,
    "reshape": moves.plain,
    "permute": moves.plain,
    "expand": moves.plain,
    "slice": moves.plain,
    "select": moves.plain,
}
CURVES: dict[str, Callable[[Node], Curve | None]] = {
    "relu": lambda node: Bent(),
    "leaky_relu": lambda node: Bent(node.attributes["slope"]) if node.attributes["slope"] <= 1 else None,
    "abs": lambda node: Bent(-1.0),
    "hardtanh": lambda node: Clip(node.attributes["low"], node.attributes["high"]),
    "sigmoid": lambda node: sigmoid(),
    "tanh": lambda node: tanh(),
    "max_pool": max_pool,
    "adaptive_max_pool": max_pool,
}
_ONE_FACTOR = ("mul", "matmul", "div")


def check_supported(graph: Graph) -> None:
    """Raise `ModelError` naming every operation, with its module, for which no bounds are known."""
    dependent = graph.dependent()
    found = [f"{node.where}: {why}" for node in graph.nodes if (why := _obstacle(node, dependent))]
    if found:
        more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
        raise ModelError(
            f"no bounds for this network: {'; '.join(found[:5])}{more}. Bounds know {', '.join(AFFINE)}, "
            f"{', '.join(CURVES)}"
        )


def _obstacle(node: Node, dependent: frozenset[Node]) -> str:
    if node not in dependent:
        return "it is no known operation" if node.op == "unknown" else ""
    if node.op != "input" and node.op not in AFFINE and node.op not in CURVES:
        return "no bounds are known for it"
    if node.shape[:1] != (-1,) or any(size < 1 for size in node.shape[1:]):
        return "it moves or merges the batch axis"
    varying = [each in dependent for each in node.inputs]
    if node.op in _ONE_FACTOR and (all(varying) or (node.op == "div" and varying[1])):
        return (
            "both of its operands depend on the image"
            if all(varying)
            else "it divides by what depends on the image"
        )
    if node.op in CURVES and CURVES[node.op](node) is None:
        return f"not with {', '.join(f'{key} {value}' for key, value in node.attributes.items())}"
    return ""


def check_deterministic(model: nn.Module) -> None:
    """Raise `ModelError` for a model that says that it is stochastic."""
    if is_stochastic(model):
        raise ModelError(
            f"{type(model).__name__} is stochastic, and bounds are for networks that give one answer; certify it "
            "by randomized smoothing, or set its noise to 0"
        )


def check_weights(graph: Graph, model: nn.Module) -> None:
    """Raise `ModelError` for a stochastic model, and for weights that are NaN or infinite."""
    check_deterministic(model)
    for node in graph.nodes:
        for name in node.weights.values():
            tensor = graph.value(model, name)
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise ModelError(f"{name} holds NaN or infinity; there are no bounds for such a network")


class Network:
    """The nodes of `graph` that depend on the images, with the weights that `model` has at this moment.

    Those are converted to `dtype`, the model's own when None; made with gradients enabled, they keep their graphs.
    Batch norm uses its running statistics, or those in `statistics`. Raises `ModelError` when an operation is not
    supported, before anything is computed.
    """

    def __init__(
        self,
        graph: Graph,
        model: nn.Module,
        *,
        dtype: torch.dtype | None = None,
        statistics: Statistics | None = None,
    ) -> None:
        check_supported(graph)
        self.graph = graph
        self.input, self.output = graph.input, graph.output
        dependent = graph.dependent()
        self.order = tuple(node for node in graph.nodes if node in dependent)
        self.affine: dict[Node, Affine] = {}
        self.curves: dict[Node, Curve] = {}
        self._values: dict[Node, Any] = {}
        self._model, self._statistics = model, statistics or {}
        self.like = self._reference(dtype)
        for node in graph.nodes:
            if node not in dependent:
                self._values[node] = self._constant(node)
            elif node.op in AFFINE:
                self.affine[node] = AFFINE[node.op](self._given(node)).wide(len(node.shape))
            elif node.op in CURVES:
                self.curves[node] = _known(CURVES[node.op](node))

    def _reference(self, dtype: torch.dtype | None) -> Tensor:
        names = [name for node in self.graph.nodes for name in node.weights.values()]
        tensors = [self.graph.value(self._model, name) for name in names]
        first = next((t for t in tensors if t.is_floating_point()), torch.empty(0))
        return torch.empty(0, dtype=dtype or first.dtype, device=first.device)

    def _cast(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        value = value.to(self.like.dtype)
        return value if torch.is_grad_enabled() else value.detach()

    def _constant(self, node: Node) -> Any:
        inputs = [self._values[each] for each in node.inputs]
        if node.op in SHAPED:
            return SHAPED[node.op](inputs[0], concrete(node.shape, 1))
        return RULES[node.op](*inputs, **node.attributes, **self.weights(node))

    def weights(self, node: Node) -> dict[str, Tensor]:
        """Return a node's tensors by role, in the network's format; of batch norm the running statistics."""
        return {role: self._cast(t) for role, t in self.graph.weights(self._model, node).items()}

    def _given(self, node: Node) -> Given:
        weights = self.weights(node)
        if node in self._statistics:
            weights["running_mean"], weights["running_var"] = map(self._cast, self._statistics[node])
        operands = tuple(self._values.get(each) for each in node.inputs)
        return Given(node, operands, weights, self.like)

    def parents(self, node: Node) -> tuple[Node, ...]:
        """Return the inputs of a node that depend on the images."""
        return tuple(each for each in node.inputs if each not in self._values)

    def back_from(self, start: Node) -> Iterator[Node]:
        """Yield the nodes from `start` to the input, each after all that use it."""
        yield from reversed(self.order[: self.order.index(start) + 1])

    @cached_property
    def tame(self) -> frozenset[Node]:
        """Nodes whose entries have nothing in common but what an interval already knows: no gain in going back."""
        found: set[Node] = set()
        for node in self.order:
            (*parents,) = self.parents(node)
            tame = _sums_apart(node) or (node in self.affine and self.affine[node].diagonal)
            if not parents or node in self.curves or (tame and len(parents) == 1 and parents[0] in found):
                found.add(node)
        return frozenset(found)

    @cached_property
    def exact(self) -> frozenset[Node]:
        """Nodes at which intervals are as tight as any linear bound, for a box of images."""
        found = {self.input}
        straight = {self.input}
        for node in self.order[1:]:
            parents = self.parents(node)
            if node not in self.affine or len(parents) != 1:
                continue
            if self.affine[node].diagonal and parents[0] in straight:
                straight.add(node)
            if parents[0] in straight or (self.affine[node].diagonal and parents[0] in found):
                found.add(node)
        return frozenset(found)


def _sums_apart(node: Node) -> bool:
    """Tell whether every entry is a sum of entries, with positive factors, that no other entry is made of."""
    if node.op == "avg_pool":
        return all(s >= k for s, k in zip(node.attributes["stride"], node.attributes["kernel"], strict=True))
    if node.op == "adaptive_avg_pool":
        return not any(a % b for a, b in zip(node.inputs[0].shape[1:], node.shape[1:], strict=True))
    return node.op in ("mean", "sum")


def _known(curve: Curve | None) -> Curve:
    if curve is None:  # check_supported has refused it
        raise TypeError("an unsupported activation")
    return curve
