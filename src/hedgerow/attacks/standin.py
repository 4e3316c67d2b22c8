"""Crafting on what is left of the weights: while most of them are zero, the sparse runtime answers the attacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hedgerow.attacks.known import known
from hedgerow.errors import ModelError
from hedgerow.runtime import SparseModel, dense_macs, lower_model, pullback
from hedgerow.sparsity import sparse_view
from hedgerow.stochastic import is_stochastic
from hedgerow.tracing import Graph, trace

WORTHWHILE = 0.2
"""Of the multiplications: with a larger share left the runtime is not clearly faster than dense kernels."""
ENOUGH = 2e11
"""Multiplications of dense forward passes to come: below, tracing and compiling cost more than they save."""

SparseCrafting = Literal["auto", "on", "off"]
"""Crafting on the non-zeros: where there is enough to do, wherever it can be, or never."""

_known: WeakKeyDictionary[nn.Module, Graph] = WeakKeyDictionary()


def _now(graph: Graph, model: nn.Module) -> nn.Module | None:
    """Return `model` with the weights that it has now in the sparse runtime; None if too many are there."""
    weights = [graph.value(model, name) for name in graph.held()]
    heavy = [weight for weight in weights if weight.dim() > 1]
    if sum(int(w.count_nonzero()) for w in heavy) > WORTHWHILE * sum(w.numel() for w in heavy):
        return None
    network = lower_model(graph, model)
    if network.macs > WORTHWHILE * dense_macs(network):
        return None
    return SparseModel(model, network, threads=torch.get_num_threads())


@contextmanager
def sparse_crafting(model: nn.Module, images: Tensor, *, to_come: int) -> Iterator[bool]:
    """Let attacks inside ask the sparse runtime in place of `model`, whenever its weights are sparse enough.

    `images` is `[N, C, H, W]` float in [0,1], N at least 1, of which the first is traced; `to_come` is how many
    forward passes of single images are expected: for little work nothing is done. Yields whether the model can be
    run so: it can not on another device than a CPU, in another type than float32, without Numba, with an operation
    that the runtime does not know, or when it is stochastic. The network crafted on is the same up to rounding,
    with the weights and running statistics of that moment. For training, like `folding`.
    """
    found = _traced(model, images[:1], to_come)
    if found is None:
        yield False
        return
    with known(_known, model, found):
        yield True


def _traced(model: nn.Module, one: Tensor, to_come: int) -> Graph | None:
    plain = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (one, *model.parameters()))
    if not plain or one.dim() != 4 or is_stochastic(model):
        return None
    try:
        with torch.no_grad(), sparse_view(model):
            graph = trace(model, one)
            network = lower_model(graph, model)
            if dense_macs(network) * to_come < ENOUGH or find_spec("numba") is None:
                return None
            pullback(network)
    except ModelError:  # an operation without a kernel, or without a derivative
        return None
    return graph


def standing_in(model: nn.Module) -> nn.Module | None:
    """Return what answers attacks on `model`, which is in eval mode with frozen weights; None if nothing does."""
    found = _known.get(model)
    return None if found is None else _now(found, model)
