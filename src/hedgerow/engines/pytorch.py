"""PyTorch, eager: dense kernels over the zeros too. The reference, not the yardstick of speed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hedgerow.engines.base import ENGINES, Floats, Loaded, check_file, quiet
from hedgerow.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn


@ENGINES.register("torch")
class PyTorch:
    """PyTorch as it stands: a sparse file made dense, or a program of torch.export."""

    reads: ClassVar[tuple[str, ...]] = (".safetensors", ".pt2")

    @staticmethod
    def load(path: Path, threads: int) -> Loaded:
        """Return the file's network; `threads` holds for the whole process."""
        import torch

        torch.set_num_threads(threads)
        if path.suffix == ".pt2":
            return read_program(path)
        module, shape = read_network(path)

        return Loaded(path, shape, by_torch(module))


def by_torch(module: nn.Module) -> Callable[[Floats], Floats]:
    """Return the module as a function of arrays."""
    import torch

    def compute(images: Floats) -> Floats:
        with torch.inference_mode():
            logits: Tensor = module(torch.from_numpy(images))
        return logits.numpy()

    return compute


def read_network(path: Path) -> tuple[nn.Module, tuple[int, ...]]:
    """Return the module of a sparse file and the shape of one image; `CheckpointError` for any other file."""
    from hedgerow.compact import read_sparse

    network = read_sparse(path)
    return network.module(), tuple(network.graph.input.shape[1:])


def read_program(path: Path) -> Loaded:
    """Return the network of a `torch.export` file; see `open_program`."""
    module, shape, batch = open_program(path)
    return Loaded(path, shape, by_torch(module), batch)


def open_program(path: Path) -> tuple[nn.Module, tuple[int, ...], int | None]:
    """Return the module of a `torch.export` file, the shape of one image, and its batch size if it has only one.

    Raises `CheckpointError` for a file that is none, or that takes anything else than one batch of images. Read
    only files that you trust: PyTorch does not promise that loading one executes nothing.
    """
    import torch

    check_file(path)
    try:
        with quiet():
            program = torch.export.load(io.BytesIO(path.read_bytes()))
        (name,) = program.graph_signature.user_inputs
        (node,) = (node for node in program.graph.nodes if node.name == name)
        batch, *shape = node.meta["val"].shape
        sizes = tuple(int(size) for size in shape)
        return program.module(), sizes, batch if isinstance(batch, int) else None
    except Exception as error:  # a broken archive fails in ways that PyTorch does not list
        first = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{path}: not a whole torch.export program of one batch of images ({type(error).__name__}: {first})"
        ) from error
