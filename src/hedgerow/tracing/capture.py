"""The exported program of a user's model, and plain words for whatever hinders it."""

from __future__ import annotations

import io
import logging
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.overrides import TorchFunctionMode

from hedgerow.errors import ModelError


def export(model: nn.Module, example: Tensor) -> ExportedProgram:
    """Export `model` with a free batch size and without operations that write into an operand still needed.

    Raises `ModelError` naming the module and the obstacle.
    """
    batch = torch.export.Dim("batch", min=1)
    try:
        # With gradients, and without its fast path: attention would vanish in one opaque operation.
        with torch.enable_grad(), _without_fast_path(), _quiet(), _GlobalGenerator():
            program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},), strict=False)
            return program.run_decompositions({}) if _entangled(program.graph) else program
    except Exception as error:
        raise ModelError(f"{type(model).__name__} cannot be traced: {_obstacle(model, error)}") from error


class _GlobalGenerator(TorchFunctionMode):
    """Draw every random number from the global generator: torch.export has no batch size for another one's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **{key: value for key, value in (kwargs or {}).items() if key != "generator"})


@contextmanager
def _without_fast_path() -> Iterator[None]:
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what torch.export prints about its own affairs; failures are told by our error."""
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    silent = logging.Filter("nothing")
    log.addFilter(silent)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.removeFilter(silent)


def _entangled(graph: fx.Graph) -> bool:
    """Tell whether an operation writes into a tensor that has another name: a view, an argument, a parameter."""
    owner: dict[fx.Node, fx.Node] = {}
    viewed: set[fx.Node] = set()
    for node in graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op == "get_attr" and any(_mutable(inner) for inner in _body(node)):
            return True
        if node.op != "call_function":
            viewed.add(node)
        elif schema is None:
            viewed.update([node, *(owner.get(operand, operand) for operand in node.all_input_nodes)])
        elif schema.is_mutable:
            written = [a for a, spec in zip(node.args, schema.arguments, strict=False) if _written(spec)]
            if written != [node.args[0]] or owner.get(written[0], written[0]) in viewed:
                return True
            owner[node] = owner.get(written[0], written[0])
        elif any(r.alias_info is not None for r in schema.returns) or "dropout" in schema.name:
            viewed.update([node, *(owner.get(operand, operand) for operand in node.all_input_nodes)])
    return False


def _body(node: fx.Node) -> list[fx.Node]:
    inner = getattr(node.graph.owning_module, str(node.target), None)
    return list(inner.graph.nodes) if isinstance(inner, fx.GraphModule) else []


def _mutable(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _written(argument: torch._C.Argument) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _obstacle(model: nn.Module, error: Exception) -> str:
    said = str(error).strip().partition("\n")[0] or "no message"
    where = failing_module(model, error)
    if "data-dependent" in said or "DataDependent" in type(error).__name__:
        return (
            f"the forward pass of {where} decides by values (`if`, `while`, boolean indexing), so that other "
            "images may take another way; write it with torch.where, or as arithmetic"
        )
    if "Constraints violated" in said:
        return (
            "its forward pass fixes the batch size, or decides by it; take the size from `x.shape[0]` (not from "
            "`len(x)` or `int(x.shape[0])`, which make it a number), or write -1 in its place"
        )
    return f"in {where}, {type(error).__name__}: {said}"


def failing_module(model: nn.Module, error: BaseException) -> str:
    """Return the innermost module of `model` whose code was running when `error` was raised."""
    names = {id(module): name for name, module in model.named_modules()}
    found = ""
    seen: BaseException | None = error
    while seen is not None and not found:
        for frame, _ in traceback.walk_tb(seen.__traceback__):
            found = _name_of(frame, names) or found
        seen = seen.__cause__
    return f"module {found!r}" if found else "the model"


def _name_of(frame: FrameType, names: dict[int, str]) -> str | None:
    return names.get(id(frame.f_locals.get("self")))
