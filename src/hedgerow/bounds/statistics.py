"""Batch statistics of a clean batch, for bounds of a network that is being trained (1906.06316)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hedgerow.errors import ModelError
from hedgerow.tracing import Graph, Node


@contextmanager
def batch_statistics(graph: Graph, model: nn.Module) -> Iterator[dict[Node, tuple[Tensor, Tensor]]]:
    """Collect what the batch norms of `model` see in one forward pass inside: mean, variance, and their graphs.

    Those in eval mode are left out; their running statistics count. Raises `ModelError` for a batch norm that is
    no module of its own, and when there is not one forward pass inside.
    """
    nodes: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.op == "batch_norm":
            nodes.setdefault(node.module, []).append(node)
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    found: dict[Node, tuple[Tensor, Tensor]] = {}

    def hook(path: str) -> Any:
        def collect(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].float() if args[0].dtype.itemsize < 4 else args[0]
            axes = [axis for axis in range(x.dim()) if axis != 1]
            seen.setdefault(path, []).append((x.mean(axes), x.var(axes, correction=0)))

        return collect

    handles = []
    try:
        for path in nodes:
            module = model.get_submodule(path)
            if not isinstance(module, _BatchNorm):
                raise ModelError(
                    f"{nodes[path][0].where} is no BatchNorm module, and its batch statistics cannot be seen; use "
                    "the running ones (statistics: running)"
                )
            if module.training:
                handles.append(module.register_forward_pre_hook(hook(path)))
        yield found
    finally:
        for handle in handles:
            handle.remove()
    for path, given in seen.items():
        if len(given) != len(nodes[path]):
            raise ModelError(f"{path} was used {len(given)} times and is traced {len(nodes[path])} times")
        found.update(zip(nodes[path], given, strict=True))
