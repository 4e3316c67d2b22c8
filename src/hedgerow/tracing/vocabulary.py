"""The closed vocabulary: every operation a traced node can have, with its inputs, attributes and weights."""

from __future__ import annotations

OPS: dict[str, str] = {
    "input": "the images",
    "constant": "a tensor of the model that enters as an operand; weights: value; or a number; attributes: value",
    "conv": "convolution of 1 to 3 dimensions; attributes: stride, padding, dilation (a tuple each), groups; "
    "weights: weight `[out, in / groups, *kernel]`, bias where there is one",
    "conv_transpose": "transposed convolution; attributes: stride, padding, output_padding, dilation, groups; "
    "weights: weight `[in, out / groups, *kernel]`, bias where there is one",
    "linear": "along the last axis; weights: weight `[out, in]`, bias where there is one",
    "matmul": "product of two inputs, as torch.matmul",
    "sdpa": "scaled dot-product attention of query, key, value and a mask where there is one; attributes: causal, "
    "scale (None: 1 / sqrt(width)), grouped",
    "batch_norm": "by the running statistics, axis 1; attributes: eps; weights: running_mean, running_var, and "
    "weight, bias where it is affine",
    "layer_norm": "over the last axes; attributes: sizes, eps; weights: weight, bias where it is affine",
    "group_norm": "over groups of axis 1; attributes: groups, eps; weights: weight, bias where it is affine",
    "relu": "max(x, 0)",
    "leaky_relu": "attributes: slope",
    "prelu": "weights: weight, one slope or one per channel of axis 1",
    "elu": "attributes: alpha",
    "gelu": "attributes: approximate (`none` or `tanh`)",
    "silu": "x sigmoid(x)",
    "mish": "x tanh(softplus(x))",
    "softplus": "attributes: beta, threshold",
    "hardswish": "x clip(x + 3, 0, 6) / 6",
    "hardsigmoid": "clip(x + 3, 0, 6) / 6",
    "hardtanh": "clip to an interval, ReLU6 among them; attributes: low, high (infinite where open)",
    "sigmoid": "1 / (1 + exp(-x))",
    "tanh": "hyperbolic tangent",
    "abs": "absolute value",
    "exp": "exponential",
    "log": "natural logarithm",
    "sqrt": "square root",
    "softmax": "attributes: dim",
    "log_softmax": "attributes: dim",
    "max_pool": "attributes: kernel, stride, padding, dilation (a tuple each), ceil",
    "avg_pool": "attributes: kernel, stride, padding (a tuple each), ceil, count_padding, divisor (None: the size "
    "of the window)",
    "adaptive_avg_pool": "attributes: size",
    "adaptive_max_pool": "attributes: size",
    "mean": "attributes: dims, keepdim",
    "sum": "attributes: dims, keepdim",
    "amax": "largest entry; attributes: dims, keepdim",
    "reshape": "flatten, view, squeeze, unsqueeze ...: the same entries, in order, in the node's own shape",
    "permute": "transposition of axes; attributes: dims (axis i of the result is axis dims[i])",
    "expand": "broadcast to the node's own shape",
    "slice": "attributes: dim, start, stop, step",
    "select": "one index of an axis, which goes; attributes: dim, index",
    "pad": "attributes: pads (before and after, per axis), mode, value",
    "cat": "inputs one after the other along an axis; attributes: dim",
    "add": "sum of two inputs, broadcast",
    "sub": "difference of two inputs, broadcast",
    "mul": "product of two inputs, broadcast",
    "div": "quotient of two inputs, broadcast",
    "unknown": "anything else; attributes: aten (its name), args and kwargs with Operand and BatchSize in them, "
    "or None where they cannot be told",
}
"""Operation to meaning. Dropout, copies and casts to the same type leave no node; axes are counted from 0."""
