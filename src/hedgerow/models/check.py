"""One forward pass that tells whether a module is a classifier that can be pruned."""

from __future__ import annotations

import torch
from torch import nn

from hedgerow.errors import ModelError
from hedgerow.sparsity.layers import KINDS, found_weights
from hedgerow.tracing.undisturbed import undisturbed


def check_model(
    model: nn.Module, *, num_classes: int, channels: int, image_size: tuple[int, int], where: str = "model"
) -> None:
    """Run two grey images (0.5) through `model` in eval mode and judge the logits.

    `image_size` is `(H, W)`. Raises `ModelError`, starting with `where`, when there is no weight
    to prune, when the forward pass on `[2, channels, H, W]` raises, and when it returns anything but
    finite floating-point logits `[2, num_classes]`. Modes, buffers and the global generators are left as they
    were.
    """
    first = next(found_weights(model), None)
    if first is None:
        raise ModelError(f"{where}: has no {KINDS} layer, so there is nothing to prune")
    shape = [2, channels, *image_size]
    device: torch.device = getattr(first.module, first.attribute).device
    images = torch.full(shape, 0.5, device=device)
    with undisturbed(model, device), torch.no_grad():
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
