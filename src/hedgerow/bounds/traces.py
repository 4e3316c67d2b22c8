"""Graphs of networks that bounds have met before."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hedgerow.bounds.network import check_deterministic, check_supported
from hedgerow.tracing import Graph, trace


class Traces:
    """Remembers the graph of every network it was asked about, while the network lives."""

    def __init__(self) -> None:
        self._graphs: WeakKeyDictionary[nn.Module, dict[Any, Graph]] = WeakKeyDictionary()

    def of(self, model: nn.Module, x: Tensor) -> Graph:
        """Return the graph of `model` for images like `x`, `[N, ...]`; it is traced when it is first asked for.

        Raises `ModelError` for a stochastic network, one that cannot be traced, and operations without bounds.
        """
        known, key = self._graphs.setdefault(model, {}), (x.shape[1:], x.device)
        if key not in known:
            check_deterministic(model)
            with torch.autocast(x.device.type, enabled=False):
                graph = trace(model, x[:2])
            check_supported(graph)
            known[key] = graph
        return known[key]
