"""How each operation couples channels: one rule per kind of operation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hedgerow.tracing.coupling import Coupling, Followed, State
from hedgerow.tracing.nodes import Node

Rule = Callable[[Coupling, Node, list[State]], State]


def _input(c: Coupling, node: Node, _: list[State]) -> State:
    if len(node.shape) < 2:
        return "an input without channels"
    return Followed(1, c.keep(c.fresh(node.shape[1]), "the channels of the images"))


def _constant(c: Coupling, node: Node, _: list[State]) -> State:
    if not node.weights:
        return "a number"
    wide = [axis for axis, size in enumerate(node.shape) if size > 1]
    if len(wide) != 1:
        return f"{node.weights['value']} has several axes"
    ids = c.fresh(node.shape[wide[0]])
    c.parameter(node.weights["value"], wide[0], ids)
    return Followed(wide[0], ids)


def _conv(c: Coupling, node: Node, states: list[State]) -> State:
    inputs, outputs = c.entering(node, states[0], 1, "the channels"), c.fresh(node.shape[1])
    weight, groups = node.weights["weight"], node.attributes["groups"]
    if 1 < groups == len(inputs):
        c.ties.append((outputs, inputs.repeat_interleave(len(outputs) // groups)))
        reason = f"{weight} is depthwise: it has one input index, and its channels go by the output axis"
        inputs = c.keep(c.fresh(1), reason)
    elif groups > 1:
        # A grouped layer stays one only if every group loses the same indices.
        inputs, outputs_by_group = inputs.view(groups, -1), outputs.view(groups, -1)
        c.ties += [(inputs, inputs[:1].expand_as(inputs))]
        c.ties += [(outputs_by_group, outputs_by_group[:1].expand_as(outputs_by_group))]
        inputs = inputs[0]
    c.parameter(weight, 1, inputs)
    _output_axis(c, node, outputs)
    return Followed(1, outputs)


def _linear(c: Coupling, node: Node, states: list[State]) -> State:
    last = len(node.shape) - 1
    c.parameter(node.weights["weight"], 1, c.entering(node, states[0], last, "the features"))
    outputs = c.fresh(node.shape[last])
    _output_axis(c, node, outputs)
    return Followed(last, outputs)


def _output_axis(c: Coupling, node: Node, outputs: Tensor) -> None:
    for name in node.weights.values():
        c.parameter(name, 0, outputs)


def _per_channel(c: Coupling, node: Node, states: list[State]) -> State:
    x = states[0]
    if isinstance(x, Followed) and x.axis == 1:
        _output_axis(c, node, x.ids)
    return x


def _group_norm(c: Coupling, node: Node, states: list[State]) -> State:
    x = states[0]
    if isinstance(x, Followed) and x.axis == 1 and node.attributes["groups"] == node.shape[1]:
        return _per_channel(c, node, states)
    return c.pass_on(x, False, f"{node.where} normalises over several channels")


def _prelu(c: Coupling, node: Node, states: list[State]) -> State:
    single = c.shape_of(node.weights["weight"]).numel() == 1
    return states[0] if single else _per_channel(c, node, states)


def _layer_norm(c: Coupling, node: Node, states: list[State]) -> State:
    first = len(node.shape) - len(node.attributes["sizes"])
    x = states[0]
    return c.pass_on(x, isinstance(x, Followed) and x.axis < first, f"{node.where} normalises over the channels")


def _softmax(c: Coupling, node: Node, states: list[State]) -> State:
    x = states[0]
    beside = isinstance(x, Followed) and x.axis != node.attributes["dim"]
    return c.pass_on(x, beside, f"{node.where} runs over the channels")


def _pool(c: Coupling, node: Node, states: list[State]) -> State:
    x = states[0]
    return c.pass_on(x, isinstance(x, Followed) and x.axis == 1, f"{node.where} runs over the channels")


def _unchanged(c: Coupling, node: Node, states: list[State]) -> State:
    return states[0]


def _reduction(c: Coupling, node: Node, states: list[State]) -> State:
    x, dims = states[0], node.attributes["dims"]
    if isinstance(x, str):
        return x
    if x.axis in dims:
        return c.give_up(states, f"{node.where} runs over the channels")
    return x if node.attributes["keepdim"] else Followed(x.axis - sum(dim < x.axis for dim in dims), x.ids)


def _reshape(c: Coupling, node: Node, states: list[State]) -> State:
    x, before, after = states[0], node.inputs[0].shape, node.shape
    if isinstance(x, str):
        return x
    batched = before[0] == -1 and after[0] == -1
    inner = before[1:] if batched else before, after[1:] if batched else after
    if all(size > 0 for shape in inner for size in shape):
        line = [1] * len(inner[0])
        line[x.axis - batched] = -1
        found = _single_axis(x.ids.view(line).expand(inner[0]).reshape(inner[1]))
        if found is not None:
            return Followed(found[0] + batched, found[1])
    return c.give_up(states, f"{node.where} spreads the channels over several axes, or joins them with the batch")


def _single_axis(ids: Tensor) -> tuple[int, Tensor] | None:
    """Return the one axis along which `ids` differ, with the ids along it."""
    for axis in range(ids.dim()):
        along = ids[tuple(slice(None) if a == axis else 0 for a in range(ids.dim()))]
        line = [1] * ids.dim()
        line[axis] = -1
        if len(along) > 1 and torch.equal(ids, along.view(line).expand_as(ids)):
            return axis, along
    return None


def _permute(c: Coupling, node: Node, states: list[State]) -> State:
    x = states[0]
    return x if isinstance(x, str) else Followed(node.attributes["dims"].index(x.axis), x.ids)


def _expand(c: Coupling, node: Node, states: list[State]) -> State:
    x = states[0]
    if isinstance(x, str):
        return x
    axis = x.axis + len(node.shape) - len(node.inputs[0].shape)
    if node.shape[axis] != len(x.ids):
        return c.give_up(states, f"{node.where} repeats a channel")
    return Followed(axis, x.ids)


def _slice(c: Coupling, node: Node, states: list[State]) -> State:
    x, given = states[0], node.attributes
    if isinstance(x, str) or given["dim"] != x.axis:
        return x
    if given["step"] != 1:
        return c.give_up(states, f"{node.where} takes every {given['step']}th channel")
    return Followed(x.axis, x.ids[given["start"] : given["stop"]])


def _select(c: Coupling, node: Node, states: list[State]) -> State:
    x, dim = states[0], node.attributes["dim"]
    if isinstance(x, str):
        return x
    if dim == x.axis:
        return c.give_up(states, f"{node.where} takes a channel by its number")
    return Followed(x.axis - (dim < x.axis), x.ids)


def _pad(c: Coupling, node: Node, states: list[State]) -> State:
    x = states[0]
    if isinstance(x, str):
        return x
    before, after = node.attributes["pads"][x.axis]
    if (before or after) and node.attributes["mode"] != "constant":
        return c.give_up(states, f"{node.where} repeats channels")
    return Followed(x.axis, torch.cat([c.fresh(before), x.ids, c.fresh(after)]))


def _cat(c: Coupling, node: Node, states: list[State]) -> State:
    dim = node.attributes["dim"]
    axes = {state.axis for state in states if isinstance(state, Followed)}
    if axes == {dim}:
        reason = f"{node.where} joins them with channels that are not followed"
        parts = [
            s.ids if isinstance(s, Followed) else c.keep(c.fresh(operand.shape[dim]), reason)
            for s, operand in zip(states, node.inputs, strict=True)
        ]
        return Followed(dim, torch.cat(parts))
    return together(c, node, states) if dim not in axes else c.give_up(states, f"{node.where} mixes axes")


def together(c: Coupling, node: Node, states: list[State]) -> State:
    """Tie the channels of all operands, position by position; operands are broadcast as torch does."""
    operands = list(zip(node.inputs, states, strict=True))
    axes = [_broadcast_axis(c, node, operand, state) for operand, state in operands]
    found = {axis for axis in axes if axis is not None}
    if len(found) > 1:  # a constant per row or column has no channels
        varying = [axis for axis, operand in zip(axes, node.inputs, strict=True) if operand in c.varying]
        found = {axis for axis in varying if axis is not None}
    if len(found) != 1:
        reason = f"{node.where} crosses two channel axes" if found else f"{node.where} has no channels to follow"
        return c.give_up(states, reason)
    (axis,) = found
    ids = next(s.ids for a, s in zip(axes, states, strict=True) if a == axis and isinstance(s, Followed))
    for operand, state in operands:
        _join(c, node, operand, state, Followed(axis, ids))
    return Followed(axis, ids)


def _broadcast_axis(c: Coupling, node: Node, operand: Node, state: State) -> int | None:
    """Return the axis of the result that an operand's channels lie on; None if they are not followed there."""
    if isinstance(state, str):
        return None
    axis = state.axis + len(node.shape) - len(operand.shape)
    return axis if len(state.ids) == node.shape[axis] else None


def _join(c: Coupling, node: Node, operand: Node, state: State, whole: Followed) -> None:
    own = whole.axis - len(node.shape) + len(operand.shape)
    size = operand.shape[own] if own >= 0 else 1
    raw = operand.op == "constant" and bool(operand.weights)
    if isinstance(state, Followed) and state.axis == own and size == len(whole.ids):
        c.ties.append((whole.ids, state.ids))
    elif raw and isinstance(state, str):
        fits = size == len(whole.ids) > 1
        if fits:
            c.parameter(operand.weights["value"], own, whole.ids)
        c.as_it_is(operand, f"{node.where} takes it as it is", but=own if fits else None)
    else:
        if isinstance(state, Followed):
            alone = "uses this channel for all others" if state.axis == own else "repeats it along another axis"
            c.keep(state.ids, f"{node.where} {alone}")
        if size != 1:
            c.keep(whole.ids, f"{node.where} joins them with channels that are not followed")


def _unprovable(c: Coupling, node: Node, states: list[State]) -> State:
    return c.give_up(states, f"removal cannot be proven through {node.where}")


def couple(c: Coupling, node: Node, states: list[State]) -> State:
    """Apply the rule of one node to the states of its inputs."""
    if RULES[node.op] is not together:
        for operand, state in zip(node.inputs, states, strict=True):
            if operand.op == "constant" and operand.weights and isinstance(state, str):
                c.as_it_is(operand, f"{operand.weights['value']} is computed with in {node.where}")
    return RULES[node.op](c, node, states)


RULES: dict[str, Rule] = {
    "input": _input,
    "constant": _constant,
    "conv": _conv,
    "linear": _linear,
    "batch_norm": _per_channel,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "prelu": _prelu,
    "softmax": _softmax,
    "log_softmax": _softmax,
    "mean": _reduction,
    "sum": _reduction,
    "amax": _reduction,
    "reshape": _reshape,
    "permute": _permute,
    "expand": _expand,
    "slice": _slice,
    "select": _select,
    "pad": _pad,
    "cat": _cat,
}
RULES |= dict.fromkeys(("conv_transpose", "matmul", "sdpa", "unknown"), _unprovable)
RULES |= dict.fromkeys(("add", "sub", "mul", "div"), together)
RULES |= dict.fromkeys(("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool"), _pool)
RULES |= dict.fromkeys(
    ("relu", "leaky_relu", "elu", "gelu", "silu", "mish", "softplus", "hardswish", "hardsigmoid", "hardtanh"),
    _unchanged,
)
RULES |= dict.fromkeys(("sigmoid", "tanh", "abs", "exp", "log", "sqrt"), _unchanged)
