"""The graph computed node by node: the slow and obvious reference of what its operations mean."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hedgerow.errors import ModelError
from hedgerow.tracing.nodes import BatchSize, Graph, Node, Operand, concrete

Rule = Callable[..., Tensor]
"""`(*inputs, **attributes, **weights)`: an operation in terms of torch."""


def run(graph: Graph, model: nn.Module, x: Tensor) -> Tensor:
    """Return what `model` in eval mode makes of the batch `x`, computed by the graph; differentiable.

    Raises `ModelError` for an `unknown` node that is no plain torch operation.
    """
    values: dict[Node, Any] = {graph.input: x}
    for node in graph.nodes:
        if node not in values:
            values[node] = evaluate(graph, model, node, [values[operand] for operand in node.inputs], len(x))
    return values[graph.output]  # type: ignore[no-any-return]


def evaluate(graph: Graph, model: nn.Module, node: Node, inputs: list[Any], batch: int) -> Any:
    """Return the value of one node from those of its inputs, for a batch of `batch` examples."""
    if node.op == "unknown":
        return _call(node, inputs, batch)
    weights = graph.weights(model, node)
    if node.op in SHAPED:
        return SHAPED[node.op](inputs[0], concrete(node.shape, batch))
    return RULES[node.op](*inputs, **node.attributes, **weights)


def operation(node: Node) -> Any:
    """Return the torch operation behind an `unknown` node; None when it exists only inside its program."""
    name = node.attributes["aten"]
    if node.attributes["args"] is None:
        return None
    if name == "getitem":
        return operator.getitem
    try:
        found = operator.attrgetter(name)(torch.ops)
    except AttributeError:
        return None
    return found if isinstance(found, torch._ops.OpOverload) else None


def _call(node: Node, inputs: list[Any], batch: int) -> Any:
    def decode(argument: Any) -> Any:
        if isinstance(argument, list | tuple):
            return [decode(each) for each in argument]
        if isinstance(argument, Operand):
            return inputs[argument.index]
        return argument.factor * batch if isinstance(argument, BatchSize) else argument

    function = operation(node)
    if function is None:
        raise ModelError(f"{node.where} cannot be computed outside its model")
    kwargs = {key: decode(value) for key, value in node.attributes["kwargs"].items()}
    return function(*decode(node.attributes["args"]), **kwargs)


def _conv(x: Tensor, *, weight: Tensor, bias: Tensor | None = None, **attributes: Any) -> Tensor:
    return getattr(F, f"conv{weight.dim() - 2}d")(x, weight, bias, **attributes)  # type: ignore[no-any-return]


def _conv_transpose(x: Tensor, *, weight: Tensor, bias: Tensor | None = None, **attributes: Any) -> Tensor:
    return getattr(F, f"conv_transpose{weight.dim() - 2}d")(x, weight, bias, **attributes)  # type: ignore[no-any-return]


def _batch_norm(x: Tensor, *, running_mean: Tensor, running_var: Tensor, eps: float, **affine: Any) -> Tensor:
    return F.batch_norm(x, running_mean, running_var, **affine, eps=eps)


def _layer_norm(x: Tensor, *, sizes: tuple[int, ...], eps: float, **affine: Tensor) -> Tensor:
    return F.layer_norm(x, sizes, **affine, eps=eps)


def _group_norm(x: Tensor, *, groups: int, eps: float, **affine: Tensor) -> Tensor:
    return F.group_norm(x, groups, **affine, eps=eps)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, **more: Any) -> Tensor:
    return F.scaled_dot_product_attention(
        q, k, v, mask, is_causal=more["causal"], scale=more["scale"], enable_gqa=more["grouped"]
    )


def _max_pool(x: Tensor, *, ceil: bool, **window: Any) -> Tensor:
    window["kernel_size"] = window.pop("kernel")
    return getattr(F, f"max_pool{x.dim() - 2}d")(x, ceil_mode=ceil, **window)  # type: ignore[no-any-return]


def _avg_pool(
    x: Tensor, *, kernel: Any, ceil: bool, count_padding: bool, divisor: int | None, **more: Any
) -> Tensor:
    dims = len(kernel)
    more |= {"divisor_override": divisor} if dims > 1 else {}
    function = getattr(F, f"avg_pool{dims}d")
    return function(x, kernel, ceil_mode=ceil, count_include_pad=count_padding, **more)  # type: ignore[no-any-return]


def _adaptive(name: str) -> Rule:
    def rule(x: Tensor, *, size: tuple[int, ...]) -> Tensor:
        return getattr(F, f"{name}{len(size)}d")(x, size)  # type: ignore[no-any-return]

    return rule


def _pad(x: Tensor, *, pads: tuple[tuple[int, int], ...], mode: str, value: float) -> Tensor:
    constant = mode == "constant"
    # The other modes want the spatial axes alone.
    flat = [size for pair in reversed(pads if constant else pads[2:]) for size in pair]
    return F.pad(x, flat, mode=mode, value=value if constant else None)


def _slice(x: Tensor, *, dim: int, start: int, stop: int, step: int) -> Tensor:
    return x[(slice(None),) * dim + (slice(start, stop, step),)]


def _softplus(x: Tensor, *, beta: float, threshold: float) -> Tensor:
    return F.softplus(x, beta=beta, threshold=threshold)


SHAPED: dict[str, Callable[[Tensor, torch.Size], Tensor]] = {
    "reshape": torch.reshape,
    "expand": torch.broadcast_to,
}
RULES: dict[str, Rule] = {
    "constant": lambda value: value,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "linear": F.linear,
    "matmul": torch.matmul,
    "sdpa": _sdpa,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "relu": torch.relu,
    "leaky_relu": lambda x, slope: F.leaky_relu(x, negative_slope=slope),
    "prelu": F.prelu,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "softplus": _softplus,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": lambda x, low, high: x.clamp(low, high),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "abs": torch.abs,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "softmax": lambda x, dim: x.softmax(dim),
    "log_softmax": lambda x, dim: x.log_softmax(dim),
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": _adaptive("adaptive_avg_pool"),
    "adaptive_max_pool": _adaptive("adaptive_max_pool"),
    "mean": lambda x, dims, keepdim: x.mean(dims, keepdim),
    "sum": lambda x, dims, keepdim: x.sum(dims, keepdim),
    "amax": lambda x, dims, keepdim: x.amax(dims, keepdim),
    "permute": lambda x, dims: x.permute(dims),
    "slice": _slice,
    "select": lambda x, dim, index: x.select(dim, index),
    "pad": _pad,
    "cat": lambda *parts, dim: torch.cat(parts, dim),
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
}
