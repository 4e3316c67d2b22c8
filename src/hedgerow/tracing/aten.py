"""Every aten operation that the vocabulary has a word for."""

from __future__ import annotations

from hedgerow.tracing.layers import LAYERS
from hedgerow.tracing.nodes import Node
from hedgerow.tracing.shapes import SHAPES
from hedgerow.tracing.translate import Call, Handler, require


def _binary(op: str, *, swapped: bool = False) -> Handler:
    def handler(call: Call) -> Node:
        a, b = call.node("self"), call.node("other")
        a, b = (b, a) if swapped else (a, b)
        require(call.get("rounding_mode") is None)
        if call.get("alpha", 1) != 1:
            require(not swapped)
            factor = call.emit("constant", shape=(), value=call.number("alpha"))
            b = call.emit("mul", b, factor, shape=b.shape)
        return call.emit(op, a, b)

    return handler


def _negative(call: Call) -> Node:
    return call.emit("mul", call.node("self"), call.emit("constant", shape=(), value=-1.0))


def _dropout(call: Call) -> Node:
    require(not call["train"] or call["p"] == 0)
    return call.node("input")


def _copy(call: Call) -> Node:
    x = call.node("self")
    require(call.keeps_type())
    return x


def _matmul(call: Call) -> Node:
    a, b = call.node("self"), call.node("mat2" if "mat2" in call else "other")
    require(a.shape[-1] > 0 and all(size > 0 for size in b.shape[-2:]))
    return call.emit("matmul", a, b)


HANDLERS: dict[str, Handler] = {
    **LAYERS,
    **SHAPES,
    "add": _binary("add"),
    "sub": _binary("sub"),
    "subtract": _binary("sub"),
    "rsub": _binary("sub", swapped=True),
    "mul": _binary("mul"),
    "multiply": _binary("mul"),
    "div": _binary("div"),
    "divide": _binary("div"),
    "true_divide": _binary("div"),
    "neg": _negative,
    "negative": _negative,
    "matmul": _matmul,
    "mm": _matmul,
    "bmm": _matmul,
}
for _name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"):
    HANDLERS[_name] = _dropout
for _name in (
    "clone",
    "contiguous",
    "detach",
    "alias",
    "lift_fresh_copy",
    "positive",
    "to",
    "type_as",
):
    HANDLERS[_name] = _copy
