"""Floating-point operations of a network, dense and with what pruning has left of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from hedgerow.errors import ModelError
from hedgerow.tracing.nodes import Graph, Node, Shape

Density = TypeVar("Density", float, Tensor)


@dataclass(frozen=True)
class LayerFlops:
    """The cost of one node for one image: `positions` times a product with a kernel of weights.

    `outputs` and `inputs` are axis 0 and axis 1 of the weight (of a grouped convolution the inputs of one
    group), `kernel` its other axes multiplied, `kept` its non-zero entries. A product of two computed values
    has no weight; its inputs are the axis summed over.
    """

    node: str
    op: str
    module: str
    weight: str | None
    positions: int
    outputs: int
    inputs: int
    kernel: int
    groups: int
    kept: int

    @property
    def dense(self) -> int:
        """FLOPs of the dense layer."""
        return 2 * self.positions * self.outputs * self.inputs * self.kernel

    @property
    def sparse(self) -> int:
        """FLOPs of the non-zero weights alone."""
        return 2 * self.positions * self.kept

    def at(self, inputs: Density, outputs: Density) -> Density:
        """FLOPs when these shares of axis 1 and axis 0 of the weight are left (arXiv 2412.14714, section 3)."""
        return self.dense * inputs * outputs


@dataclass(frozen=True)
class Flops:
    """The layers in the order of computation, and the operations of which the cost is not known, by name."""

    layers: tuple[LayerFlops, ...]
    unknown: tuple[str, ...]

    @property
    def dense(self) -> int:
        """FLOPs of the dense network for one image."""
        return sum(layer.dense for layer in self.layers)

    @property
    def sparse(self) -> int:
        """FLOPs of the non-zero weights alone, for one image."""
        return sum(layer.sparse for layer in self.layers)


def flops(graph: Graph, model: nn.Module, *, masks: Mapping[str, Tensor] | None = None) -> Flops:
    """Count the floating-point operations of `model` for one image, layer by layer.

    A multiplication with its addition counts as 2 FLOPs; products with padding count. Counted are
    convolutions, linear layers, matrix products and attention. Biases, normalisation, activations, pooling and
    sums are left out, as is usual; operations outside the vocabulary are named in `unknown`.

    The weights kept are those of `masks` (True is kept) where it has the weight, else the non-zero ones of the
    model as it is. Raises `ModelError` when a mask fits no weight of the graph.
    """
    layers, unknown = [], []
    for node in graph.nodes:
        counted = _layer(graph, model, node, masks or {})
        if counted is not None:
            layers.append(counted)
        elif node.op in COSTLY or (node.op == "unknown" and node.attributes["aten"] != "getitem"):
            unknown.append(node.where)
    _check_masks(graph, model, masks or {}, {layer.weight for layer in layers})
    return Flops(tuple(layers), tuple(unknown))


COSTLY = ("conv", "conv_transpose", "linear", "matmul", "sdpa")


def _check_masks(graph: Graph, model: nn.Module, masks: Mapping[str, Tensor], weights: set[str | None]) -> None:
    for name, mask in masks.items():
        if name not in weights:
            raise ModelError(f"mask of {name}: no convolution or linear layer of the graph has this weight")
        if mask.shape != graph.value(model, name).shape:
            raise ModelError(
                f"mask of {name}: is {list(mask.shape)}, expected {list(graph.value(model, name).shape)}"
            )


def _layer(graph: Graph, model: nn.Module, node: Node, masks: Mapping[str, Tensor]) -> LayerFlops | None:
    shapes = [node.shape, *(operand.shape for operand in node.inputs)]
    if node.op not in COSTLY or any(0 in shape for shape in shapes):
        return None
    name = node.weights.get("weight")
    if name is None:
        positions, outputs, inputs = _product(node)
        kernel, kept = 1, outputs * inputs
    else:
        weight = graph.value(model, name)
        outputs, inputs, kernel = weight.shape[0], weight.shape[1], math.prod(weight.shape[2:])
        # A transposed convolution uses every weight once per position of its input.
        where = node.inputs[0].shape if node.op == "conv_transpose" else node.shape
        positions = _entries(where) // where[-1 if node.op == "linear" else 1]
        kept = int(torch.count_nonzero(masks.get(name, weight)))
    groups = node.attributes.get("groups", 1)
    return LayerFlops(node.name, node.op, node.module, name, positions, outputs, inputs, kernel, groups, kept)


def _product(node: Node) -> tuple[int, int, int]:
    """Return positions, outputs and inputs of a product of two computed values."""
    if node.op == "sdpa":
        query, key, value = (operand.shape for operand in node.inputs[:3])
        # Query times key, then their softmax times value.
        return _entries(query) // query[-1], query[-1] + value[-1], abs(key[-2])
    a, b = (operand.shape for operand in node.inputs)
    outputs = b[-1] if len(b) > 1 else 1
    return _entries(node.shape) // outputs, outputs, a[-1]


def _entries(shape: Shape) -> int:
    """Entries per image."""
    return math.prod(abs(size) for size in shape)
