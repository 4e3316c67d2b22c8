"""From an exported program to nodes: one walk over torch.fx, operation by operation."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx

from hedgerow.tracing.nodes import BatchSize, Node, Operand, Shape
from hedgerow.tracing.vocabulary import OPS

Value = Node | tuple[Node, ...]
Handler = Callable[["Call"], Value]


class NotCanonicalError(Exception):
    """An operation has no exact form in the vocabulary; it becomes `unknown`."""


def require(canonical: bool) -> None:
    """Raise `NotCanonicalError` unless the condition holds."""
    if not canonical:
        raise NotCanonicalError


def axis(dim: object, shape: Shape) -> int:
    """Return an axis counted from 0."""
    require(isinstance(dim, int) and bool(shape))
    return dim % len(shape)  # type: ignore[operator]


def apart(x: Node) -> None:
    """Require every axis of `x` but the first to lie within one example."""
    require(all(size > 0 for size in x.shape[1:]))


def own_axis(dim: object, shape: Shape) -> int:
    """Return an axis within one example, counted from 0: an operation along the batch would mix examples."""
    found = axis(dim, shape)
    require(shape[found] > 0)
    return found


class Call:
    """One aten call as a handler sees it: arguments by name, defaults filled in, operands as nodes."""

    def __init__(self, walk: Translator, source: fx.Node) -> None:
        self._walk, self._source = walk, source
        self._arguments = {a.name: a.default_value for a in source.target._schema.arguments}  # type: ignore[union-attr]
        self._arguments |= dict(zip(self._arguments, source.args, strict=False)) | dict(source.kwargs)

    @property
    def result(self) -> Any:
        """The fake tensor, or the list of them, that the call returned while it was traced."""
        return self._source.meta["val"]

    @property
    def shape(self) -> Shape:
        """The shape of the result."""
        return self._walk.shape_of(self.result)

    def shape_of(self, value: object) -> Shape:
        """Return the shape of a fake tensor."""
        return self._walk.shape_of(value)

    def __contains__(self, name: str) -> bool:
        return name in self._arguments

    def __getitem__(self, name: str) -> Any:
        if name not in self._arguments:
            raise NotCanonicalError(name)
        return self._arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument that not every form of the operation has."""
        return self[name] if name in self._arguments else default

    def number(self, name: str) -> Any:
        """Return an argument that is a number, text or None, not a value computed in the network."""
        if isinstance(self[name], fx.Node):
            raise NotCanonicalError(name)
        return self[name]

    def sizes(self, name: str, count: int) -> tuple[int, ...]:
        """Return an argument of `count` whole numbers; a single one is repeated."""
        given = self[name]
        given = [given] if isinstance(given, int) else list(given)
        if any(not isinstance(size, int) for size in given):
            raise NotCanonicalError(name)
        return tuple(given * count if len(given) == 1 else given)

    def node(self, name: str) -> Node:
        """Return a tensor argument; a number becomes a constant."""
        return self._node(self[name])

    def list_of_nodes(self, name: str) -> list[Node]:
        """Return an argument that is a list of tensors."""
        return [self._node(each) for each in self[name]]

    def _node(self, given: object) -> Node:
        if isinstance(given, int | float) and not isinstance(given, bool):
            return self.emit("constant", shape=(), value=given)
        found = self._walk.values.get(given) if isinstance(given, fx.Node) else None
        if not isinstance(found, Node):
            raise NotCanonicalError(str(given))
        return found

    def keeps_type(self) -> bool:
        """Tell whether the result has the type and device of the first argument."""
        before = self._source.args[0].meta["val"]  # type: ignore[union-attr]
        return (before.dtype, before.device) == (self.result.dtype, self.result.device)

    def only_first_used(self) -> bool:
        """Tell whether of several results only the first one is used."""
        return not any(user.args[1] and user.users for user in self._source.users)

    def weights(self, *names: str) -> dict[str, str]:
        """Return the dotted names of those arguments that are given; a computed one is not canonical."""
        found = {}
        for name in names:
            if self[name] is not None:
                node = self.node(name)
                if "value" not in node.weights:
                    raise NotCanonicalError(name)
                found[name] = node.weights["value"]
        return found

    def emit(
        self,
        op: str,
        *inputs: Node,
        shape: Shape | None = None,
        weights: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Node:
        """Add a node; its attributes are `more`, its shape is the result's unless said."""
        shape = self.shape if shape is None else shape
        return self._walk.emit(self._source, op, inputs, attributes=more, shape=shape, weights=weights)


class Translator:
    """Nodes for the fx graphs of one exported program, by `handlers` (aten name without its final `_`)."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self.handlers = handlers
        self.nodes: list[Node] = []
        self.values: dict[fx.Node, Value] = {}
        self._names: set[str] = set()
        self.batch: object | None = None
        self._sizes: dict[object, int] = {}
        self._owner: dict[fx.Node, fx.Node] = {}

    def walk(self, graph: fx.Graph, given: Iterable[Value]) -> Any:
        """Translate `graph` with `given` for its placeholders, in order; return what it outputs, as fx nodes."""
        given = iter(given)
        for source in graph.nodes:
            if source.op == "placeholder":
                self.values[source] = next(given)
            elif source.op == "call_function":
                self._translate(source)
        return graph.output_node().args[0]

    def _translate(self, source: fx.Node) -> None:
        first = source.args[0] if source.args and isinstance(source.args[0], fx.Node) else source
        parts = self.values.get(first)
        if source.target is operator.getitem and isinstance(parts, tuple):
            index = cast(int, source.args[1])
            if index < len(parts):
                self.values[source] = parts[index]
        elif str(source.target) == "wrap_with_set_grad_enabled":
            self._inline(source)
        elif not self._is_size(source):
            self.values[source] = self._value(source)
            if _writes(source):
                # The result and the operand are one tensor: whoever reads the operand later reads the result.
                owner = self._owner[source] = self._owner.get(first, first)
                family = [owner, *(node for node, root in self._owner.items() if root is owner)]
                self.values.update(dict.fromkeys(family, self.values[source]))

    def _value(self, source: fx.Node) -> Value:
        name = aten_name(source)
        try:
            if name is None or name not in self.handlers:
                raise NotCanonicalError(str(source.target))
            return self.handlers[name](Call(self, source))
        except NotCanonicalError:
            return self._unknown(source)

    def _inline(self, source: fx.Node) -> None:
        _, body, *operands = cast(list[fx.Node], source.args)
        inner = cast(fx.GraphModule, getattr(source.graph.owning_module, str(body.target)))
        results = self.walk(inner.graph, [self.values[operand] for operand in operands])
        self.values[source] = tuple(cast(Node, self.values[result]) for result in results)

    def _unknown(self, source: fx.Node) -> Node:
        inputs: list[Node] = []

        def encode(argument: Any) -> Any:
            if isinstance(argument, list | tuple):
                return [encode(each) for each in argument]
            if not isinstance(argument, fx.Node):
                return argument
            value, size = self.values.get(argument), self.size(argument.meta.get("val", 0))
            if isinstance(value, Node):
                inputs.append(value)
                return Operand(len(inputs) - 1)
            require(size < 0)
            return BatchSize(-size)

        attributes: dict[str, Any] = {"aten": _full_name(source.target), "args": None, "kwargs": None}
        try:
            args, kwargs = encode(source.args), {key: encode(value) for key, value in source.kwargs.items()}
            attributes |= {"args": tuple(args), "kwargs": kwargs}
        except NotCanonicalError:
            # Without arguments it cannot be computed from here; what it depends on is known all the same.
            inputs = [v for n in source.all_input_nodes if isinstance(v := self.values.get(n), Node)]
        shape = self.shape_of(source.meta.get("val"))
        return self.emit(source, "unknown", inputs, attributes=attributes, shape=shape)

    def emit(
        self,
        source: fx.Node,
        op: str,
        inputs: Iterable[Node],
        *,
        attributes: Mapping[str, Any],
        shape: Shape,
        weights: Mapping[str, str] | None = None,
    ) -> Node:
        """Add a node that comes from `source`."""
        if op not in OPS:
            raise KeyError(f"{op!r} is not in the vocabulary")
        stem = f"{source.name}.constant" if op == "constant" and not weights else source.name
        name, number = stem, 0
        while name in self._names:
            number += 1
            name = f"{stem}.{number}"
        self._names.add(name)
        node = Node(name, op, tuple(inputs), dict(attributes), _module(source), shape, dict(weights or {}))
        self.nodes.append(node)
        return node

    def shape_of(self, value: object) -> Shape:
        """Return the shape of a fake tensor; `()` for anything else."""
        return tuple(self.size(size) for size in value.shape) if isinstance(value, Tensor) else ()

    def size(self, value: object) -> int:
        """Return a size as shapes have it: -k for k times the batch size, 0 for what is neither."""
        if isinstance(value, int):
            return value
        if not isinstance(value, torch.SymInt):
            return 0
        expression = value.node.expr
        if self.batch is None:
            self.batch = expression  # the first free size of the program is the batch size of its input
        if expression not in self._sizes:
            self._sizes[expression] = _multiple(expression, self.batch)
        return self._sizes[expression]

    def _is_size(self, source: fx.Node) -> bool:
        # Arithmetic on sizes: shapes hold the results already.
        return isinstance(source.meta.get("val"), int | torch.SymInt) and aten_name(source) != "item"


def _multiple(expression: Any, batch: Any) -> int:
    """Return -k for the expression `k * batch`, else 0."""
    factor = expression / batch
    return -int(factor) if factor.is_Integer and factor > 0 else 0


def _writes(source: fx.Node) -> bool:
    schema = getattr(source.target, "_schema", None)
    return schema is not None and schema.is_mutable


def aten_name(source: fx.Node) -> str | None:
    """Return the name of an aten operation, without the `_` of the form that works in place; else None."""
    if not isinstance(source.target, torch._ops.OpOverload) or source.target.namespace != "aten":
        return None
    name = source.target._schema.name.removeprefix("aten::")
    return name.removesuffix("_") if _writes(source) else name


def _full_name(target: object) -> str:
    return "getitem" if target is operator.getitem else str(target)


def _module(source: fx.Node) -> str:
    stack = source.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if not path.startswith("_empty")]
    return paths[-1].split("@")[0] if paths else ""
