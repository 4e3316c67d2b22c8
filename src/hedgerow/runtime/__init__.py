"""Running a sparse network fast on a CPU, and differentiating it by its images, from its non-zeros alone."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from hedgerow.compact import read_sparse
from hedgerow.errors import CheckpointError
from hedgerow.runtime.derivative import Derivative, SparseModel
from hedgerow.runtime.lower import lower
from hedgerow.runtime.machine import Machine, detect
from hedgerow.runtime.network import Network, dense_macs
from hedgerow.runtime.program import Program
from hedgerow.runtime.pullback import pullback
from hedgerow.runtime.steps import Affine, Conv, Pool, Taps
from hedgerow.tracing import Graph, trace

__all__ = [
    "Affine",
    "Conv",
    "Derivative",
    "Machine",
    "Network",
    "Pool",
    "Program",
    "SparseModel",
    "Taps",
    "compile",
    "dense_macs",
    "detect",
    "load",
    "lower",
    "lower_model",
    "lowered",
    "pullback",
]


def compile(model: nn.Module, example: Tensor, *, threads: int = 1, deterministic: bool = False) -> Program:
    """Return `model`, masked or baked, as a program for this machine; its weights are copied as they are now.

    `example` is a batch `[N, C, H, W]` as the model takes it. What batches of that size need is compiled at once,
    the rest when it is first needed. `threads` and `deterministic` are those of `Program`.

    Raises `ModelError` that names every layer the runtime cannot do, with its module, before anything is compiled,
    and for whatever `trace` and `Program` refuse; `MissingPackageError` without Numba.
    """
    return Program(lowered(model, example), threads=threads, deterministic=deterministic).prepare(len(example))


def lowered(model: nn.Module, example: Tensor) -> Network:
    """Return the steps of `model`, masked or baked, with a copy of its weights; the rest as in `compile`."""
    return lower_model(trace(model, example), model)


def lower_model(graph: Graph, model: nn.Module) -> Network:
    """Return the steps of `model`, of which `graph` was traced, with the weights that it has now; see `lower`."""
    return lower(graph, {name: graph.value(model, name) for name in graph.held()})


def load(path: Path | str, *, threads: int = 1, deterministic: bool = False) -> Program:
    """Return the network of a sparse file as a program; its convolutions are never made dense.

    Raises `CheckpointError` for a file that is none or was cut short or altered, and what `compile` raises.
    """
    stored = read_sparse(Path(path))
    try:
        network = lower(stored.graph, {**stored.dense, **stored.sparse})
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # The parts of the file are whole, and their shapes and attributes are of no network.
        raise CheckpointError(
            f"{path}: its architecture does not fit its weights ({type(error).__name__}: {error}); it was altered"
        ) from error
    return Program(network, threads=threads, deterministic=deterministic)
