"""Aten operations that move entries about and compute nothing: reshape, permute, slice, pad, cat."""

from __future__ import annotations

from collections.abc import Callable

from hedgerow.tracing.nodes import Node, Shape
from hedgerow.tracing.translate import Call, Handler, Value, axis, own_axis, require


def _reshape(call: Call) -> Node:
    x = call.node("self")
    require(0 not in (*x.shape, *call.shape))
    return x if call.shape == x.shape else call.emit("reshape", x)


def _expand(call: Call) -> Node:
    x = call.node("self")
    require(0 not in (*x.shape, *call.shape))
    return x if call.shape == x.shape else call.emit("expand", x)


def _permute(order: Callable[[Call, Shape], list[int]]) -> Handler:
    def handler(call: Call) -> Node:
        x = call.node("self")
        dims = tuple(order(call, x.shape))
        return x if dims == tuple(range(len(dims))) else call.emit("permute", x, dims=dims)

    return handler


def _given_order(call: Call, shape: Shape) -> list[int]:
    return [axis(dim, shape) for dim in call["dims"]]


def _swapped(first: str | int, second: str | int) -> Callable[[Call, Shape], list[int]]:
    def order(call: Call, shape: Shape) -> list[int]:
        a, b = (axis(call[d] if isinstance(d, str) else d, shape) for d in (first, second))
        dims = list(range(len(shape)))
        dims[a], dims[b] = b, a
        return dims

    return order


def _moved(call: Call, shape: Shape) -> list[int]:
    ends = [[d] if isinstance(d, int) else list(d) for d in (call["source"], call["destination"])]
    sources, targets = ([axis(dim, shape) for dim in each] for each in ends)
    dims = [dim for dim in range(len(shape)) if dim not in sources]
    for target, source in sorted(zip(targets, sources, strict=True)):
        dims.insert(target, source)
    return dims


def _cut(call: Call, x: Node, dim: int, start: int, stop: int, step: int = 1) -> Node:
    size = len(range(start, stop, step))
    if (start, size) == (0, x.shape[dim]):
        return x
    shape = (*x.shape[:dim], size, *x.shape[dim + 1 :])
    return call.emit("slice", x, shape=shape, dim=dim, start=start, stop=stop, step=step)


def _slice(call: Call) -> Node:
    x = call.node("self")
    dim = axis(call["dim"], x.shape)
    bounds = slice(*(call.number(name) for name in ("start", "end", "step")))
    if x.shape[dim] < 0 and call.shape == x.shape and bounds.step in (None, 1):
        return x
    return _cut(call, x, own_axis(dim, x.shape), *bounds.indices(x.shape[dim]))


def _narrow(call: Call) -> Node:
    x, start, length = call.node("self"), call.number("start"), call.number("length")
    dim = own_axis(call["dim"], x.shape)
    return _cut(call, x, dim, start % x.shape[dim], start % x.shape[dim] + length)


def _parts(call: Call) -> Value:
    x = call.node("self")
    dim, start, parts = own_axis(call["dim"], x.shape), 0, []
    for part in call.result:
        parts.append(_cut(call, x, dim, start, start + part.shape[dim]))
        start += part.shape[dim]
    return tuple(parts)


def _pick(call: Call, x: Node, dim: int, index: int) -> Node:
    shape = (*x.shape[:dim], *x.shape[dim + 1 :])
    return call.emit("select", x, shape=shape, dim=dim, index=index % x.shape[dim])


def _select(call: Call) -> Node:
    x = call.node("self")
    return _pick(call, x, own_axis(call["dim"], x.shape), call.number("index"))


def _unbind(call: Call) -> Value:
    x = call.node("self")
    dim = own_axis(call["dim"], x.shape)
    return tuple(_pick(call, x, dim, index) for index in range(x.shape[dim]))


def _pad(call: Call) -> Node:
    x = call.node("self")
    given = [*call["pad"], *[0] * (2 * len(x.shape) - len(call["pad"]))]
    require(all(isinstance(p, int) and p >= 0 for p in given))
    pads = tuple(zip(given[-2::-2], given[-1::-2], strict=True))
    mode = call.get("mode", "constant")
    require(all(size > 0 or pair == (0, 0) for size, pair in zip(x.shape, pads, strict=True)))
    require(mode == "constant" or pads[:2] == ((0, 0), (0, 0)))
    return call.emit("pad", x, pads=pads, mode=mode, value=float(call["value"] or 0))


def _cat(call: Call) -> Node:
    parts = call.list_of_nodes("tensors")
    dim = axis(call["dim"], call.shape)
    require(all(len(p.shape) == len(call.shape) and p.shape[dim] > 0 for p in parts))
    return call.emit("cat", *parts, dim=dim)


def _stack(call: Call) -> Node:
    parts, dim = call.list_of_nodes("tensors"), axis(call["dim"], call.shape)
    shape = (*call.shape[:dim], 1, *call.shape[dim + 1 :])
    return call.emit("cat", *(call.emit("reshape", part, shape=shape) for part in parts), dim=dim)


SHAPES: dict[str, Handler] = {
    "permute": _permute(_given_order),
    "transpose": _permute(_swapped("dim0", "dim1")),
    "swapaxes": _permute(_swapped("axis0", "axis1")),
    "swapdims": _permute(_swapped("dim0", "dim1")),
    "t": _permute(_swapped(0, -1)),
    "mT": _permute(_swapped(-2, -1)),
    "movedim": _permute(_moved),
    "slice": _slice,
    "narrow": _narrow,
    "select": _select,
    "unbind": _unbind,
    "pad": _pad,
    "constant_pad_nd": _pad,
    "cat": _cat,
    "concat": _cat,
    "stack": _stack,
}
for _name in ("reshape", "view", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "ravel"):
    SHAPES[_name] = _reshape
for _name in ("reshape_as", "view_as"):
    SHAPES[_name] = _reshape
for _name in ("expand", "expand_as"):
    SHAPES[_name] = _expand
for _name in ("chunk", "split", "split_with_sizes", "tensor_split"):
    SHAPES[_name] = _parts
