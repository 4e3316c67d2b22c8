"""How far a file's answers are from the network's, on real images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hedgerow.engines.base import Floats, Loaded
from hedgerow.errors import DataError, ModelError
from hedgerow.stochastic import is_stochastic
from hedgerow.tracing import undisturbed

_BATCH = 64
TOLERANCE = 1e-3
"""Largest difference of a float32 file, relative to the largest logit: far above rounding, far below a fault."""


@dataclass(frozen=True)
class Agreement:
    """Two sets of logits beside each other: largest difference, also relative to the largest, and same classes."""

    images: int
    largest: float
    relative: float
    same_class: int

    def __str__(self) -> str:
        return (
            f"logits differ by {self.largest:.2g} at most ({self.relative:.2g} of the largest), same class on "
            f"{self.same_class} of {self.images} images"
        )


def agreement(expected: Tensor, found: Tensor, what: str) -> Agreement:
    """Compare logits `[N, classes]` with those expected; `ModelError` for another shape or numbers not finite."""
    if expected.shape != found.shape:
        raise ModelError(f"{what}: gives {list(found.shape)} for logits of {list(expected.shape)}")
    if not bool(torch.isfinite(found).all()):
        raise ModelError(f"{what}: its logits are not all finite numbers")
    largest = float((found - expected).abs().max())
    scale = float(expected.abs().max())
    same = int((expected.argmax(1) == found.argmax(1)).sum())
    return Agreement(len(expected), largest, largest / scale if scale else largest, same)


def compare(
    expected: Tensor, compute: Callable[[Floats], Floats], images: Tensor, what: str, *, tolerance: float | None
) -> Agreement:
    """Run a file on `images` `[N, ...]`, in batches and the first one alone, and compare it with what is expected.

    Raises `ModelError` where it differs by more than `tolerance` (None: any) of the largest logit, and where the
    single image is answered otherwise than in its batch.
    """
    if isinstance(compute, Loaded) and compute.batch is not None:
        raise ModelError(
            f"{what}: the forward pass fixes the batch size at {compute.batch}; use sizes of its input"
        )
    found = answers(compute, images)
    result = agreement(expected, found, what)
    alone = agreement(found[:1], answers(compute, images[:1]), f"{what}, one image alone")
    for where, difference in (("", result.relative), (" for one image alone", alone.relative)):
        if tolerance is not None and difference > tolerance:
            raise ModelError(f"{what} does not compute the network{where}: {result}; nothing was written")
    return result


def answers(compute: Callable[[Floats], Floats], images: Tensor) -> Tensor:
    """Return the logits `[N, classes]` of float32 images, computed in batches of 64."""
    return torch.cat([torch.from_numpy(compute(part.numpy())) for part in torch.split(images, _BATCH)])


def expected_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return what `model` in eval mode answers; the yardstick of every file.

    Raises `DataError` for images that are not float32 `[N, ...]` in [0,1], `ModelError` for a stochastic model.
    """
    if images.dtype != torch.float32 or images.dim() < 2 or not len(images):
        raise DataError(f"images are {images.dtype} {list(images.shape)}; expected float32 [N, ...], at least one")
    if not (images.min() >= 0 and images.max() <= 1):
        raise DataError("pixels lie outside [0,1]; normalisation belongs inside the model, not in the data")
    if is_stochastic(model):
        raise ModelError(
            f"{type(model).__name__} draws random numbers when it is evaluated; no file holds its generator"
        )
    with undisturbed(model, images.device), torch.no_grad():
        return torch.cat([model(part) for part in torch.split(images, _BATCH)])
