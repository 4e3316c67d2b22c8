"""Any model as a graph of known operations over its own, live weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hedgerow.errors import ModelError
from hedgerow.tracing.aten import HANDLERS
from hedgerow.tracing.nodes import Graph, Node
from hedgerow.tracing.run import operation, run
from hedgerow.tracing.translate import Translator
from hedgerow.tracing.undisturbed import plain_weights, undisturbed

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def trace(model: nn.Module, example: Tensor) -> Graph:
    """Return `model`'s forward pass in eval mode as a graph that serves any batch size.

    `example` is a batch `[N, ...]` of at least one image, on the model's device; its values do not matter.
    Weights are referred to by name and fetched live, parametrized ones (masks) as the one effective weight
    that the layer uses. Modes, buffers, parameters and the global generators are left as they were. What the
    vocabulary lacks becomes an `unknown` node and is no error.

    Raises `ModelError` when the model does not take the example, when it does not return one tensor
    `[N, ...]`, when its way depends on values or on the batch size, and when the finished graph does not
    repeat the model's answer on one image.
    """
    from hedgerow.tracing.capture import export

    kind = type(model).__name__
    if not isinstance(example, Tensor) or example.dim() < 1 or len(example) < 1:
        raise ModelError(f"{kind}: trace needs a batch of at least one image, [N, ...], not {_described(example)}")
    with undisturbed(model, example.device):
        one = example[:1].detach()
        expected = _answer(model, one.clone())
        # torch.export takes a batch of 1 for a size that never changes.
        two = torch.cat([example.detach()[:1], example.detach()[-1:]])
        with plain_weights(model):
            program = export(model, two)
        graph = _translated(model, program)
        _prove(graph, model, one, expected)
    return graph


def _described(value: object) -> str:
    return f"the shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _answer(model: nn.Module, one: Tensor) -> Tensor:
    from hedgerow.tracing.capture import failing_module

    kind, shape = type(model).__name__, list(one.shape)
    try:
        with torch.no_grad():
            answer = model(one)
    except Exception as error:
        raise ModelError(
            f"{kind} cannot be traced: on an example of shape {shape}, {failing_module(model, error)} raised "
            f"{type(error).__name__}: {error}. Give an example batch as the model takes it"
        ) from error
    if not isinstance(answer, Tensor):
        raise ModelError(f"{kind} cannot be traced: it returned a {type(answer).__name__}; one tensor is needed")
    if answer.dim() < 1 or len(answer) != 1:
        raise ModelError(
            f"{kind} cannot be traced: of one image it made the shape {list(answer.shape)}; the result must have "
            "the batch size first"
        )
    return answer


def _translated(model: nn.Module, program: ExportedProgram) -> Graph:
    walk, signature = Translator(HANDLERS), program.graph_signature
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    given = []
    for source in program.graph.find_nodes(op="placeholder"):
        shape = walk.shape_of(source.meta["val"])
        weights = {"value": names[source.name]} if source.name in names else {}
        op = "constant" if weights else "input"
        given.append(walk.emit(source, op, (), attributes={}, shape=shape, weights=weights))
    outputs = walk.walk(program.graph, given)
    kinds = [spec.kind.name for spec in signature.output_specs]
    output = walk.values[outputs[kinds.index("USER_OUTPUT")]]
    if not isinstance(output, Node) or output.shape[:1] != (-1,):
        raise ModelError(f"{type(model).__name__} cannot be traced: its result does not have the batch size first")
    nodes = _needed(walk.nodes, output)
    used = {name for node in nodes for name in node.weights.values()}
    made = {n: v for n, v in program.constants.items() if n in used and not _belongs(model, n)}
    return Graph(nodes, output, made)


def _belongs(model: nn.Module, name: str) -> bool:
    try:
        Graph((), None).value(model, name)  # type: ignore[arg-type]
    except ModelError:
        return False
    return True


def _needed(nodes: list[Node], output: Node) -> tuple[Node, ...]:
    needed = {output}
    for node in reversed(nodes):
        if node in needed:
            needed.update(node.inputs)
    return tuple(node for node in nodes if node.op == "input") + tuple(
        node for node in nodes if node in needed and node.op != "input"
    )


def _prove(graph: Graph, model: nn.Module, one: Tensor, expected: Tensor) -> None:
    if not all(_repeatable(node) for node in graph.unknown):
        return
    with torch.no_grad():
        found = run(graph, model, one.clone())
    if found.shape != expected.shape or not _close(found, expected):
        raise ModelError(
            f"{type(model).__name__} cannot be traced: for one image alone it computes something else than for "
            "several (a squeeze() that takes the batch axis along, or a decision by the batch size)"
        )


def _repeatable(node: Node) -> bool:
    function = operation(node)
    return function is not None and torch.Tag.nondeterministic_seeded not in getattr(function, "tags", [])


def _close(found: Tensor, expected: Tensor) -> bool:
    if not expected.is_floating_point():
        return torch.equal(found, expected)
    slack = torch.finfo(expected.dtype).eps ** 0.5
    scale = float(expected.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(found, expected, rtol=slack, atol=slack * scale, equal_nan=True)
