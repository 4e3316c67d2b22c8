"""One forward pass that tells whether a module is a classifier that can be pruned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from hedgerow.errors import ModelError
from hedgerow.sparsity.layers import PRUNABLE


def check_model(
    model: nn.Module, *, num_classes: int, channels: int, image_size: tuple[int, int], where: str = "model"
) -> None:
    """Run two grey images (0.5) through `model` in eval mode and judge the logits.

    `image_size` is `(H, W)`. Raises `ModelError`, starting with `where`, when there is no Conv or Linear
    weight to prune, when the forward pass on `[2, channels, H, W]` raises, and when it returns anything but
    finite floating-point logits `[2, num_classes]`. Modes, buffers and the global generators are left as they
    were.
    """
    layers = [m for m in model.modules() if isinstance(m, PRUNABLE)]
    if not layers:
        raise ModelError(f"{where}: has no Conv1d, Conv2d, Conv3d or Linear layer, so there is nothing to prune")
    shape = [2, channels, *image_size]
    device = layers[0].weight.device
    images = torch.full(shape, 0.5, device=device)
    with _undisturbed(model, device), torch.no_grad():
        try:
            logits = model(images)
        except Exception as error:
            raise ModelError(
                f"{where}: the forward pass on images {shape} (float32 in [0,1]) raised "
                f"{type(error).__name__}: {error}. It must take that shape; compare channels and image size "
                "with the data's"
            ) from error
    _check_logits(logits, [2, num_classes], f"{where}: on images {shape}")


def _check_logits(logits: object, expected: list[int], where: str) -> None:
    if not isinstance(logits, torch.Tensor):
        raise ModelError(f"{where}, returned a {type(logits).__name__}; it must return one tensor, {expected}")
    if list(logits.shape) != expected:
        raise ModelError(
            f"{where}, returned the shape {list(logits.shape)}; expected logits {expected}: batch, classes"
        )
    if not logits.is_floating_point():
        raise ModelError(f"{where}, returned {logits.dtype}; expected floating-point logits, not class numbers")
    if not bool(logits.isfinite().all()):
        raise ModelError(f"{where}, returned NaN or infinity; look at the initial weights and any division or log")


@contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put `model` in eval mode; afterwards restore modes, buffers and generators."""
    modes = [(m, m.training) for m in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if not is_lazy(buffer)
    ]
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            model.eval()
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer.copy_(value)
