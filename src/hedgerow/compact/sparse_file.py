"""The sparse file: a whole network, architecture included, in the bytes that its non-zeros need."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hedgerow.compact.architecture import (
    GraphNetwork,
    as_tensor,
    graph_from_plain,
    graph_to_plain,
    missing_weights,
)
from hedgerow.compact.positions import decode_positions, encode_positions
from hedgerow.compact.values import VALUE_CODES, Floats, ValueCode, pack, quantise, unpack
from hedgerow.errors import CheckpointError, ModelError
from hedgerow.files import read_tensors, write_tensors
from hedgerow.sparsity import prunable_weights
from hedgerow.tracing import Graph, plain_weights, trace

FORMAT = 1
_MOST_ENTRIES = 2**34
_HELD_AS_THEY_ARE = {"int64": torch.int64, "bool": torch.bool, "float64": torch.float64}


@dataclass(frozen=True)
class SparseTensor:
    """The non-zeros of one tensor: `positions` ascending in its flat order, `values` float32."""

    shape: tuple[int, ...]
    positions: NDArray[np.int64]
    values: Floats

    def dense(self) -> Tensor:
        """Return the whole tensor, zeros included."""
        whole = np.zeros(math.prod(self.shape), dtype=np.float32)
        whole[self.positions] = self.values
        return as_tensor(whole.reshape(self.shape))


@dataclass(frozen=True)
class SparseNetwork:
    """What a sparse file holds: the graph, the sparse weights, every other tensor, and what is known of it."""

    graph: Graph
    sparse: Mapping[str, SparseTensor]
    dense: Mapping[str, Tensor]
    parameters: frozenset[str]
    about: Mapping[str, Any]

    def state_dict(self) -> dict[str, Tensor]:
        """Return every tensor whole, by its name in the original model."""
        return {**self.dense, **{name: weight.dense() for name, weight in self.sparse.items()}}

    def module(self) -> GraphNetwork:
        """Return the network as a module with dense weights."""
        state = self.state_dict()
        parameters = {name: tensor for name, tensor in state.items() if name in self.parameters}
        return GraphNetwork(self.graph, parameters, {n: t for n, t in state.items() if n not in parameters})


def write_sparse(
    path: Path,
    model: nn.Module,
    example: Tensor,
    *,
    values: ValueCode = "float32",
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write `model`, traced on `example` `[N, ...]`, as one `.safetensors` file without any pickle in it.

    Prunable weights are stored by their non-zeros: `float32` gives every bit back, `float16` rounds, `int8`
    rounds to 127 steps per output channel. All other tensors are kept as they are. `about` (recipe, evaluation;
    plain values) goes into the metadata. Raises `ModelError` for a model that cannot be traced or stored.
    """
    if values not in VALUE_CODES:
        raise ModelError(f"values {values!r} is not known; allowed: {', '.join(VALUE_CODES)}")
    graph = trace(model, example)
    prunable = set(prunable_weights(model))
    stored: dict[str, Tensor] = {}
    index: dict[str, dict[str, Any]] = {}
    with plain_weights(model), torch.no_grad():
        parameters = sorted(name for name, _ in model.named_parameters())
        for name, tensor in {**model.state_dict(), **graph.constants}.items():
            index[name] = _store(name, tensor, values if name in prunable else "float32", stored, name in prunable)
    description = {
        "format": FORMAT,
        "tensors": index,
        "graph": graph_to_plain(graph),
        "constants": sorted(graph.constants),
        "parameters": parameters,
        "about": dict(about or {}),
    }
    return write_tensors(path, stored, {"hedgerow": json.dumps(description, allow_nan=False)})


def _store(
    name: str, tensor: Tensor, code: ValueCode, stored: dict[str, Tensor], prunable: bool
) -> dict[str, Any]:
    kind = str(tensor.dtype).removeprefix("torch.")
    entry: dict[str, Any] = {"shape": list(tensor.shape), "dtype": kind}
    if kind != "float32":
        if kind not in _HELD_AS_THEY_ARE:
            raise ModelError(
                f"{name} is {kind}; the sparse file holds float32, and {', '.join(_HELD_AS_THEY_ARE)}"
            )
        stored[f"{name}:plain"] = tensor
        return entry
    flat = tensor.detach().cpu().contiguous().view(-1).numpy()
    kept = flat
    if prunable:
        mask = flat.view(np.uint32) != 0  # by bits: a negative zero is a value
        entry["count"] = int(mask.sum())
        entry["positions"], packed = encode_positions(mask)
        stored[f"{name}:positions"] = _bytes(packed)
        kept = flat[mask]
    entry["values"] = code
    coded: NDArray[np.generic] = kept
    if code == "int8":
        rows = np.flatnonzero(mask) // max(1, flat.size // tensor.shape[0])
        coded, scales = quantise(kept, rows, tensor.shape[0])
        stored[f"{name}:scales"] = torch.from_numpy(scales)
    elif code == "float16":
        coded = kept.astype(np.float16)
    packed, entry["planes"] = pack(coded)
    stored[f"{name}:values"] = _bytes(packed)
    return entry


def _bytes(packed: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(packed, dtype=np.uint8).copy())


def read_sparse(path: Path) -> SparseNetwork:
    """Read a sparse file; nothing in it is executed and nothing dense is made.

    Raises `CheckpointError` that names the file, and the tensor where it is one, for anything else than a whole
    and unaltered sparse file.
    """
    stored, metadata = read_tensors(path)
    try:
        description = json.loads(metadata["hedgerow"])
        version, index = description["format"], dict(description["tensors"])
        parameters = frozenset(description["parameters"])
        constant = set(description["constants"])
        about, plain = dict(description["about"]), description["graph"]
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}: not a sparse file of this toolkit ({error}); see hedgerow export"
        ) from error
    if version != FORMAT:
        raise CheckpointError(
            f"{path}: format {version}, and this version reads {FORMAT}; install the one it needs"
        )
    sparse: dict[str, SparseTensor] = {}
    dense: dict[str, Tensor] = {}
    for name, entry in index.items():
        found = _load(f"{path}: {name}", name, entry, stored)
        if isinstance(found, SparseTensor):
            sparse[name] = found
        else:
            dense[name] = found
    constants = {name: tensor for name, tensor in dense.items() if name in constant}
    graph = graph_from_plain(plain, constants, str(path))
    absent = missing_weights(graph, set(index))
    if absent:
        raise CheckpointError(
            f"{path}: lacks {', '.join(absent)}, which its architecture needs; the file was altered"
        )
    return SparseNetwork(
        graph, sparse, {name: t for name, t in dense.items() if name not in constants}, parameters, about
    )


def _load(what: str, name: str, entry: Any, stored: Mapping[str, Tensor]) -> Tensor | SparseTensor:
    try:
        shape = tuple(int(size) for size in entry["shape"])
        size = math.prod(shape)
        if min(shape, default=0) < 0 or size > _MOST_ENTRIES:
            raise ValueError(f"shape {list(shape)}")
        if entry["dtype"] != "float32":
            tensor = stored[f"{name}:plain"]
            if tensor.shape != shape or tensor.dtype != _HELD_AS_THEY_ARE[entry["dtype"]]:
                raise ValueError(f"{tensor.dtype} {list(tensor.shape)}")
            return tensor
        sparse = "positions" in entry
        count = int(entry["count"]) if sparse else size
        if not 0 <= count <= size:
            raise ValueError(f"{count} of {size} entries")
        lengths = [int(length) for length in entry["planes"]]
        packed = stored[f"{name}:values"].numpy().tobytes()
        coded = unpack(packed, lengths, kind=entry["values"], count=count, what=what)
        if not sparse:
            return as_tensor(coded.astype(np.float32).reshape(shape))
        positions = decode_positions(
            entry["positions"], stored[f"{name}:positions"].numpy().tobytes(), size=size, count=count, what=what
        )
        values = coded.astype(np.float32)
        if entry["values"] == "int8":
            values *= stored[f"{name}:scales"].numpy()[positions // max(1, size // shape[0])]
    except (KeyError, ValueError, TypeError, IndexError, OverflowError) as error:
        raise CheckpointError(f"{what}: not as it declares ({error}); the file was altered") from error
    return SparseTensor(shape, positions, values)
