"""From a traced graph to the steps of the runtime, operation by operation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import numpy as np
from torch import Tensor

from hedgerow.errors import ModelError
from hedgerow.runtime.fusing import Fusing, Numbers, RefusedError, Weights, require
from hedgerow.runtime.network import Network
from hedgerow.runtime.steps import Conv, Floats, Pair, Pool, Shape, Taps
from hedgerow.tracing import Graph, Node


def lower(graph: Graph, weights: Weights) -> Network:
    """Return the network of `graph`, its weights by name, each a tensor or its non-zeros alone.

    Raises `ModelError` that names all operations which the runtime does not know, with their modules.
    """
    image, logits = graph.input.shape, graph.output.shape
    if len(image) != 4 or len(logits) != 2 or logits[0] != -1 or min(image[1:]) < 1:
        raise ModelError(
            "the sparse runtime takes images [N, C, H, W] and gives logits [N, classes]; this network makes "
            f"{list(logits)} of {list(image)}, where -1 is the batch size"
        )
    fusing, refused = Fusing(graph, weights, _shape(graph.input)), []
    for node in graph.nodes:
        if node not in fusing.dependent or node is graph.input:
            continue
        try:
            require(node.op in _RULES)
            fusing.value[node] = _RULES[node.op](fusing, node)
        except RefusedError as reason:
            refused.append(f"{node.where} ({reason})" if str(reason) else node.where)
            fusing.value[node] = fusing.new(_shape(node))
    if refused:
        raise ModelError(
            f"the sparse runtime cannot run {'; '.join(refused)}. It knows convolutions of images, linear layers, "
            "batch norm, ReLU and other clipping, pools, flatten and sums; run this network with torch"
        )
    return fusing.network()


def _shape(node: Node) -> Shape:
    """The sizes of one example as channels, height, width."""
    sizes = [max(size, 1) for size in node.shape[1:]]
    return (sizes[0], sizes[1], sizes[2]) if len(sizes) == 3 else (math.prod(sizes), 1, 1)


def _taps(fusing: Fusing, node: Node, columns: int) -> tuple[Taps, Floats]:
    """The non-zeros of a layer's weight, whose outputs have so many `columns` each, and its bias."""
    weight, outputs = fusing.weights[node.weights["weight"]], node.shape[1]
    if tuple(weight.shape[:1]) != (outputs,) or math.prod(weight.shape) != outputs * columns:
        raise ModelError(
            f"{node.where}: its weight is {list(weight.shape)}, not {outputs} times {columns} numbers"
        )
    if isinstance(weight, Tensor):
        flat = weight.detach().cpu().float().contiguous().view(-1).numpy()
        positions = np.flatnonzero(flat)
        values = flat[positions]
    else:  # of which a stored value may be a negative zero
        kept = np.flatnonzero(weight.values)
        positions, values = weight.positions[kept], weight.values[kept]
    bias = fusing.numbers(node, "bias")
    bias = np.zeros(outputs) if bias is None else bias
    return Taps.of((outputs, columns), positions, values), bias.astype(np.float32)


def _conv(fusing: Fusing, node: Node) -> int:
    require(len(node.shape) == 4, "not over the two axes of an image")
    source, target = fusing.value[node.inputs[0]], fusing.new(_shape(node))
    kernel = cast(Pair, tuple(fusing.weights[node.weights["weight"]].shape[2:]))
    inputs = fusing.shapes[source][0] // node.attributes["groups"]
    taps, bias = _taps(fusing, node, inputs * math.prod(kernel))
    return fusing.add(Conv(node.module, source, target, taps, bias, kernel, **node.attributes))


def _linear(fusing: Fusing, node: Node) -> int:
    require(len(node.shape) == 2, "along the last axis of a map")
    source = fusing.value[node.inputs[0]]
    taps, bias = _taps(fusing, node, math.prod(fusing.shapes[source]))
    kernel = fusing.shapes[source][1:]
    return fusing.add(Conv(node.module, source, fusing.new((taps.outputs, 1, 1)), taps, bias, kernel))


def _batch_norm(fusing: Fusing, node: Node) -> int:
    roles = ("running_mean", "running_var", "weight", "bias")
    mean, var, weight, bias = (fusing.numbers(node, role) for role in roles)
    scale = (1.0 if weight is None else weight) / np.sqrt(cast(Numbers, var) + node.attributes["eps"])
    shift = (0.0 if bias is None else bias) - cast(Numbers, mean) * scale
    return fusing.affine(node, node.inputs[0], scale, shift)


def _relu(fusing: Fusing, node: Node) -> int:
    return fusing.clip(node, node.inputs[0], 0.0, math.inf)


def _hardtanh(fusing: Fusing, node: Node) -> int:
    return fusing.clip(node, node.inputs[0], node.attributes["low"], node.attributes["high"])


def _arithmetic(fusing: Fusing, node: Node) -> int:
    a, b = node.inputs
    if a in fusing.dependent and b in fusing.dependent:
        require(node.op == "add", "of two computed values")
        return fusing.sum(node)
    operand, given = (a, b) if a in fusing.dependent else (b, a)
    number = _per_channel(fusing, node, operand, given)
    if node.op == "add":
        return fusing.affine(node, operand, 1.0, number)
    if node.op == "sub":
        return fusing.affine(node, operand, 1.0 if operand is a else -1.0, -number if operand is a else number)
    require(node.op == "mul" or operand is a, "by a computed value")
    return fusing.affine(node, operand, number if node.op == "mul" else 1.0 / number, 0.0)


def _per_channel(fusing: Fusing, node: Node, operand: Node, given: Node) -> Numbers:
    constant, rank = fusing.constant(given), len(node.shape)
    require(constant.dim() <= rank and node.shape == operand.shape, "that changes the shape")
    sizes = (1,) * (rank - constant.dim()) + tuple(constant.shape)
    require(sizes[0] == 1 and all(size == 1 for size in sizes[2:]), "with one number for every pixel")
    return cast(Numbers, constant.flatten().numpy())


def _reshape(fusing: Fusing, node: Node) -> int:
    found, sizes = fusing.shape(node.inputs[0]), node.shape[1:]
    flat = len(sizes) == 1 and sizes[0] == math.prod(found)
    require(node.shape[0] == -1 and (flat or sizes == found), "to another order than flattening")
    return fusing.value[node.inputs[0]]


def _max_pool(fusing: Fusing, node: Node) -> int:
    require(len(node.shape) == 4, "not over the two axes of an image")
    attributes = {key: value for key, value in node.attributes.items() if key != "ceil"}
    source, target = fusing.value[node.inputs[0]], fusing.new(_shape(node))
    return fusing.add(Pool(node.module, source, target, "max", **attributes))


def _avg_pool(fusing: Fusing, node: Node) -> int:
    require(len(node.shape) == 4, "not over the two axes of an image")
    kernel, stride, padding = (cast(Pair, node.attributes[key]) for key in ("kernel", "stride", "padding"))
    source, target = fusing.value[node.inputs[0]], fusing.new(_shape(node))
    given, size = fusing.shapes[source], fusing.shapes[target]
    whole = all((given[1 + i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 == size[1 + i] for i in range(2))
    require(whole, "whose last window is not whole")
    divisor = node.attributes["divisor"] or (math.prod(kernel) if node.attributes["count_padding"] else 0)
    return fusing.add(Pool(node.module, source, target, "mean", kernel, stride, padding, divisor=divisor))


def _adaptive(fusing: Fusing, node: Node) -> int:
    size = node.attributes["size"]
    require(len(size) == 2, "not over the two axes of an image")
    return _parts(fusing, node, size, largest=node.op == "adaptive_max_pool")


def _reduction(fusing: Fusing, node: Node) -> int:
    require(len(node.inputs[0].shape) == 4 and node.attributes["dims"] == (2, 3), "not over the pixels of a map")
    return _parts(fusing, node, (1, 1), largest=node.op == "amax")


def _parts(fusing: Fusing, node: Node, size: Pair, *, largest: bool) -> int:
    """Pool a map that divides into `size` equal windows."""
    source = fusing.value[node.inputs[0]]
    channels, height, width = fusing.shapes[source]
    require(height % size[0] == 0 and width % size[1] == 0, "into windows of different sizes")
    kernel = (height // size[0], width // size[1])
    target = fusing.new((channels, *size))
    return fusing.add(Pool(node.module, source, target, "max" if largest else "mean", kernel, kernel))


_RULES: dict[str, Callable[[Fusing, Node], int]] = {
    "conv": _conv,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "relu": _relu,
    "hardtanh": _hardtanh,
    "add": _arithmetic,
    "sub": _arithmetic,
    "mul": _arithmetic,
    "div": _arithmetic,
    "reshape": _reshape,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": _adaptive,
    "adaptive_max_pool": _adaptive,
    "mean": _reduction,
    "amax": _reduction,
}
