"""A network compiled by PyTorch for the steps of its training: fewer passes over memory between convolutions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hedgerow.errors import MissingPackageError, ModelError

Call = Callable[..., Any]
# A step asks for several programs: crafting and training, with and without gradients. Beyond PyTorch's own limit
# it would go on uncompiled, and say nothing.
_PROGRAMS = 64


@functools.cache
def why_not(device_type: str) -> str | None:
    """Return why nothing can be compiled for a device here; None when a small function could be."""
    try:
        torch.compile(_trial, dynamic=False)(torch.zeros(3, device=device_type))
    except Exception as error:  # whatever is missing: a compiler, its headers, a package
        return f"{type(error).__name__}: {_first_line(error)}"
    return None


def _trial(x: Tensor) -> Tensor:
    return (2 * x + 1).relu()


def compiled_call(model: nn.Module, device: torch.device) -> Call:
    """Return what `computed_by` takes: the network's forward, compiled for each shape when that first comes.

    Random numbers in it are those of the network as it stands. Raises `MissingPackageError` where nothing can be
    compiled.
    """
    reason = why_not(device.type)
    if reason is not None:
        raise MissingPackageError(
            f"compile: true: PyTorch cannot compile for this {device.type} ({reason}). On a CPU it needs a C++ "
            "compiler such as g++ and the headers of Python, on a GPU triton; install them, or set compile: false"
        )
    torch.compiler.reset()  # programs of the phase before, which count against the limit

    def call(*images: Any, **options: Any) -> Any:
        return model._call_impl(*images, **options)  # type: ignore[no-untyped-call]

    # A function of ours around it: where PyTorch's own modules are the outermost, it would compile nothing.
    return torch.compile(call, dynamic=False, options={"fallback_random": True})


@contextmanager
def computed_by(model: nn.Module, call: Call | None) -> Iterator[None]:
    """Let calls of `model` inside be `call`; None changes nothing. Raises `ModelError` if it is not compilable."""
    if call is None:
        yield
        return
    before = model._compiled_call_impl
    model._compiled_call_impl = call
    config: Any = torch._dynamo.config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    try:
        with config.patch({limit: _PROGRAMS}):
            yield
    except torch._dynamo.exc.TorchDynamoException as error:
        raise ModelError(
            f"compile: true: PyTorch cannot compile {type(model).__name__} ({type(error).__name__}: "
            f"{_first_line(error)}); set compile: false"
        ) from error
    finally:
        model._compiled_call_impl = before


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
