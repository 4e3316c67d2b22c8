"""Aten operations that networks have as layers: convolutions, normalisation, activations, pooling."""

from __future__ import annotations

import math

from torch import Tensor

from hedgerow.tracing.nodes import Node, Shape
from hedgerow.tracing.translate import Call, Handler, Value, apart, own_axis, require


def _plain(op: str) -> Handler:
    return lambda call: call.emit(op, call.node("self"))


def _convolution(dims: int) -> Handler:
    def handler(call: Call) -> Node:
        x, padding = call.node("input"), call["padding"]
        apart(x)
        require(len(x.shape) == dims + 2)
        dilation = call.sizes("dilation", dims)
        kernel = call.node("weight").shape[2:]
        before = after = (0,) * dims
        if padding == "same":
            total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
            before, after = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        elif padding != "valid":
            before = after = call.sizes("padding", dims)
        weights = call.weights("weight", "bias")
        if before != after:  # an even kernel: one more zero behind than before
            pads = ((0, 0), (0, 0), *zip(before, after, strict=True))
            shape = tuple(s if s < 0 else s + sum(p) for s, p in zip(x.shape, pads, strict=True))
            x, before = call.emit("pad", x, shape=shape, pads=pads, mode="constant", value=0.0), (0,) * dims
        stride, groups = call.sizes("stride", dims), call["groups"]
        return call.emit(
            "conv", x, weights=weights, stride=stride, padding=before, dilation=dilation, groups=groups
        )

    return handler


def _transposed(dims: int) -> Handler:
    def handler(call: Call) -> Node:
        x = call.node("input")
        apart(x)
        require(len(x.shape) == dims + 2)
        names = ("stride", "padding", "output_padding", "dilation")
        sizes = {name: call.sizes(name, dims) for name in names}
        weights = call.weights("weight", "bias")
        return call.emit("conv_transpose", x, weights=weights, **sizes, groups=call["groups"])

    return handler


def _linear(call: Call) -> Node:
    return call.emit("linear", call.node("input"), weights=call.weights("weight", "bias"))


def _sdpa(call: Call) -> Node:
    require(call["dropout_p"] == 0)
    names = ["query", "key", "value"] + ["attn_mask"] * (call["attn_mask"] is not None)
    inputs = [call.node(name) for name in names]
    require(inputs[1].shape[-2] > 0)
    return call.emit(
        "sdpa", *inputs, causal=call["is_causal"], scale=call.number("scale"), grouped=call["enable_gqa"]
    )


def _batch_norm(call: Call) -> Node:
    x = call.node("input")
    apart(x)
    # Without running statistics, or in training mode, it would mix examples.
    require(len(x.shape) > 1 and call["running_mean"] is not None and not call.get("training"))
    weights = call.weights("weight", "bias", "running_mean", "running_var")
    return call.emit("batch_norm", x, weights=weights, shape=_first(call), eps=call["eps"])


def _batch_norm_of_three(call: Call) -> Value:
    require(call.only_first_used())
    return (_batch_norm(call),)


def _instance_norm(call: Call) -> Node:
    if not call["use_input_stats"]:
        return _batch_norm(call)
    x = call.node("input")
    apart(x)
    # Statistics of each channel of each example: as many groups as channels.
    return call.emit("group_norm", x, weights=call.weights("weight", "bias"), groups=x.shape[1], eps=call["eps"])


def _group_norm(call: Call) -> Node:
    x = call.node("input")
    apart(x)
    return call.emit(
        "group_norm", x, weights=call.weights("weight", "bias"), groups=call["num_groups"], eps=call["eps"]
    )


def _layer_norm(call: Call) -> Node:
    sizes = call.sizes("normalized_shape", 1)
    return call.emit(
        "layer_norm", call.node("input"), weights=call.weights("weight", "bias"), sizes=sizes, eps=call["eps"]
    )


def _leaky_relu(call: Call) -> Node:
    return call.emit("leaky_relu", call.node("self"), slope=call["negative_slope"])


def _prelu(call: Call) -> Node:
    return call.emit("prelu", call.node("self"), weights=call.weights("weight"))


def _elu(call: Call) -> Node:
    require(call["scale"] == 1 and call["input_scale"] == 1)
    return call.emit("elu", call.node("self"), alpha=call["alpha"])


def _gelu(call: Call) -> Node:
    return call.emit("gelu", call.node("self"), approximate=call["approximate"])


def _softplus(call: Call) -> Node:
    return call.emit("softplus", call.node("self"), beta=call["beta"], threshold=call["threshold"])


def _clip(
    low_name: str | None, high_name: str | None, *, low: float = -math.inf, high: float = math.inf
) -> Handler:
    def handler(call: Call) -> Node:
        ends = [call.number(name) if name else None for name in (low_name, high_name)]
        bottom, top = (float(side if end is None else end) for side, end in zip((low, high), ends, strict=True))
        if bottom == 0 and top == math.inf:
            return call.emit("relu", call.node("self"))
        return call.emit("hardtanh", call.node("self"), low=bottom, high=top)

    return handler


def _softmax(op: str) -> Handler:
    def handler(call: Call) -> Node:
        x = call.node("self")
        require(call["dtype"] is None)
        return call.emit(op, x, dim=own_axis(call["dim"], x.shape))

    return handler


def _max_pool(dims: int, *, pair: bool = False) -> Handler:
    def handler(call: Call) -> Value:
        x = call.node("self")
        apart(x)
        require(len(x.shape) == dims + 2 and (not pair or call.only_first_used()))
        kernel = call.sizes("kernel_size", dims)
        node = call.emit(
            "max_pool",
            x,
            shape=_first(call),
            kernel=kernel,
            stride=call.sizes("stride", dims) or kernel,
            padding=call.sizes("padding", dims),
            dilation=call.sizes("dilation", dims),
            ceil=call["ceil_mode"],
        )
        return (node,) if pair else node

    return handler


def _avg_pool(dims: int) -> Handler:
    def handler(call: Call) -> Node:
        x = call.node("self")
        apart(x)
        require(len(x.shape) == dims + 2)
        kernel = call.sizes("kernel_size", dims)
        return call.emit(
            "avg_pool",
            x,
            kernel=kernel,
            stride=call.sizes("stride", dims) or kernel,
            padding=call.sizes("padding", dims),
            ceil=call["ceil_mode"],
            count_padding=call["count_include_pad"],
            divisor=call.get("divisor_override"),
        )

    return handler


def _first(call: Call) -> Shape:
    """The shape of the result, or of its first tensor where it is a pair of values and places."""
    result = call.result
    return call.shape_of(result if isinstance(result, Tensor) else result[0])


def _adaptive(op: str, dims: int, *, pair: bool = False) -> Handler:
    def handler(call: Call) -> Value:
        x = call.node("self")
        apart(x)
        require(len(x.shape) == dims + 2 and (not pair or call.only_first_used()))
        node = call.emit(op, x, shape=_first(call), size=call.sizes("output_size", dims))
        return (node,) if pair else node

    return handler


def _reduction(op: str, *, pair: bool = False) -> Handler:
    def handler(call: Call) -> Value:
        x = call.node("self")
        given = call.get("dim")
        require(call.get("dtype") is None)
        require("other" not in call and (not pair or call.only_first_used()))
        given = [given] if isinstance(given, int) else (given or range(len(x.shape)))
        dims = tuple(sorted(own_axis(dim, x.shape) for dim in given))
        node = call.emit(op, x, shape=_first(call), dims=dims, keepdim=bool(call.get("keepdim")))
        return (node,) if pair else node

    return handler


LAYERS: dict[str, Handler] = {
    "linear": _linear,
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm_of_three,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "leaky_relu": _leaky_relu,
    "prelu": _prelu,
    "elu": _elu,
    "gelu": _gelu,
    "softplus": _softplus,
    "relu6": _clip(None, None, low=0.0, high=6.0),
    "hardtanh": _clip("min_val", "max_val"),
    "clamp": _clip("min", "max"),
    "clip": _clip("min", "max"),
    "clamp_min": _clip("min", None),
    "clamp_max": _clip(None, "max"),
    "scaled_dot_product_attention": _sdpa,
}
for _op in ("relu", "silu", "mish", "hardswish", "hardsigmoid", "sigmoid", "tanh", "abs", "exp", "log", "sqrt"):
    LAYERS[_op] = _plain(_op)
for _op in ("softmax", "log_softmax"):
    LAYERS[_op] = _softmax(_op)
for _op in ("mean", "sum", "amax"):
    LAYERS[_op] = _reduction(_op)
LAYERS["max"] = _reduction("amax", pair=True)
for _dims in (1, 2, 3):
    LAYERS[f"conv{_dims}d"] = _convolution(_dims)
    LAYERS[f"conv_transpose{_dims}d"] = _transposed(_dims)
    LAYERS[f"max_pool{_dims}d"] = _max_pool(_dims)
    LAYERS[f"max_pool{_dims}d_with_indices"] = _max_pool(_dims, pair=True)
    LAYERS[f"avg_pool{_dims}d"] = _avg_pool(_dims)
    LAYERS[f"adaptive_avg_pool{_dims}d"] = _adaptive("adaptive_avg_pool", _dims)
    LAYERS[f"adaptive_max_pool{_dims}d"] = _adaptive("adaptive_max_pool", _dims, pair=True)
