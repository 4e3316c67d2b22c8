"""A file that holds a network as a module that the evaluator takes: with gradients, or by its answers alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from hedgerow.engines.base import Loaded, check_file
from hedgerow.engines.onnx_runtime import OnnxRuntime
from hedgerow.engines.pytorch import open_program
from hedgerow.errors import DataError


class Filed(nn.Module):
    """A network that a file holds; the file's digest stands for its weights.

    `batch` is the one batch size that it computes, None for any: other batches are cut and filled up.
    """

    digest: Tensor

    def __init__(self, path: Path, shape: tuple[int, ...], batch: int | None) -> None:
        super().__init__()
        self.path, self.shape = path, shape
        digest = hashlib.blake2b(path.read_bytes(), digest_size=32).digest()
        self.register_buffer("digest", torch.frombuffer(bytearray(digest), dtype=torch.uint8))
        self.batch = batch

    def answer(self, x: Tensor) -> Tensor:
        """Return the logits of a batch that the file can compute."""
        raise TypeError(f"{type(self).__name__} must define answer()")

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits `[N, classes]` of float32 images `[N, *shape]` in [0,1]; `DataError` for others."""
        if x.dtype != torch.float32 or x.shape[1:] != self.shape:
            raise DataError(
                f"{self.path}: images are {x.dtype} {list(x.shape)}; this file takes float32 "
                f"[N, {', '.join(map(str, self.shape))}] in [0,1]"
            )
        if self.batch is None or not len(x):
            return self.answer(x)
        parts = []
        for part in torch.split(x, self.batch):
            missing = self.batch - len(part)
            whole = torch.cat([part, part[:1].expand(missing, *part.shape[1:])]) if missing else part
            parts.append(self.answer(whole)[: len(part)])
        return torch.cat(parts)


class BlackBox(Filed):
    """What ONNX Runtime computes, on the CPU; no gradient comes back."""

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded.path, loaded.shape, loaded.batch)
        self.loaded = loaded

    def answer(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return torch.from_numpy(self.loaded(x.detach().cpu().numpy())).to(x.device)


class Program(Filed):
    """A program of torch.export, through which gradients flow; on the device that it was exported for."""

    def __init__(self, path: Path) -> None:
        check_file(path)
        graph, shape, batch = open_program(path)
        super().__init__(path, shape, batch)
        self.graph = (graph,)  # in a tuple: it has no train mode to be switched, and no weights to be trained
        for parameter in graph.parameters():
            parameter.requires_grad_(False)

    def answer(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.graph[0](x)
        return logits


def read_module(path: Path, *, threads: int) -> Filed:
    """Return the network of an `.onnx` or a `.pt2` file; raises what its engine does for a file that is none."""
    return BlackBox(OnnxRuntime.load(path, threads)) if path.suffix == ".onnx" else Program(path)
