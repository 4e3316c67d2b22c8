"""A sparse network that can be attacked: logits, and the gradient of the pixels, from its non-zeros alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn

from hedgerow.errors import DataError
from hedgerow.runtime.machine import Machine, detect
from hedgerow.runtime.network import Network
from hedgerow.runtime.program import Engine, Program
from hedgerow.runtime.pullback import pullback
from hedgerow.runtime.steps import Floats


class Derivative:
    """The gradient of `sum(v * logits)` by the pixels, in float32, as a program of a CPU.

    It computes the logits again on its way: what a forward pass made is not kept. Images are taken in groups of
    as many as a vector has numbers, an incomplete group like a whole one. Raises `ModelError` for a step whose
    derivative `pullback` does not know, and `MissingPackageError` without Numba.
    """

    def __init__(self, network: Network, *, threads: int = 1, machine: Machine | None = None) -> None:
        self.network, self.machine = pullback(network), detect() if machine is None else machine
        self.threads = threads
        self._engine = Engine(self.network, self.machine, "batch", measured=False)
        self._pool = ThreadPoolExecutor(threads, "hedgerow-derivative") if threads > 1 else None

    def __call__(self, images: Tensor, v: Tensor) -> Tensor:
        """Return the gradient `[N, C, H, W]` of `sum(v * logits)` at float32 `images` of that shape.

        `v` is `[N, classes]`, float32. Raises `DataError` for tensors of another shape or type, or not on the CPU.
        """
        assert self.network.given is not None
        expected = [tuple(self.network.shapes[0]), tuple(self.network.shapes[self.network.given][:1])]
        for name, tensor, shape in zip(("images", "v"), (images, v), expected, strict=True):
            if tensor.device.type != "cpu" or tensor.dtype != torch.float32 or tuple(tensor.shape[1:]) != shape:
                raise DataError(
                    f"{name}: {list(tensor.shape)} {tensor.dtype} on {tensor.device}; the derivative takes "
                    f"float32 [N, {', '.join(map(str, shape))}] on the cpu"
                )
        if len(images) != len(v):
            raise DataError(f"there are {len(images)} images and {len(v)} rows of numbers for their logits")
        pixels, given = (np.ascontiguousarray(t.detach().numpy()) for t in (images, v))
        made = np.empty(pixels.shape, np.float32)
        self._run(pixels, made, given)
        return torch.from_numpy(made)

    def _run(self, pixels: Floats, made: Floats, given: Floats) -> None:
        count, lanes = len(pixels), self.machine.lanes
        if self._pool is None:
            self._engine.run(pixels, made, 0, count, given)
            return
        ends = [(first, min(count, first + lanes)) for first in range(0, count, lanes)]
        jobs = [self._pool.submit(self._engine.run, pixels, made, *end, given) for end in ends]
        for job in jobs:
            job.result()


class _Answer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, images: Tensor, sparse: SparseModel) -> Tensor:
        ctx.save_for_backward(images)
        ctx.sparse = sparse  # type: ignore[attr-defined]
        return sparse.program(images)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (images,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return ctx.sparse.derivative(images, gradients[0]), None  # type: ignore[attr-defined]


class SparseModel(nn.Module):
    """`model` as it is now, run by the sparse runtime: logits, and gradients by the images but not by the weights.

    What attacks ask of a network is all there, so that they cost what its non-zero weights cost. `network` is
    `model` lowered; `model` itself stays below, for its parameters and its name. Images are float32 on the CPU; a
    second derivative is refused by torch. The mode makes no difference: batch norm uses its running statistics.
    """

    def __init__(self, model: nn.Module, network: Network, *, threads: int = 1) -> None:
        super().__init__()
        self.model = model
        self.program = Program(network, threads=threads, deterministic=True)
        self.derivative = Derivative(network, threads=threads)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits `[N, classes]` of float32 images `[N, C, H, W]`."""
        if not images.requires_grad:
            return self.program(images)
        answer: Tensor = _Answer.apply(images, self)  # type: ignore[no-untyped-call]
        return answer
