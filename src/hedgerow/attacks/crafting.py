"""The room in which adversarial examples are made: the model is looked at, never changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from hedgerow.attacks.folding import folded
from hedgerow.attacks.standin import standing_in
from hedgerow.errors import DataError
from hedgerow.sparsity.effective import frozen_weights

Mode = Literal["eval", "train"]


def bare(model: nn.Module) -> nn.Module:
    """Return the user's module from under a distributed or precision wrapper."""
    while hasattr(model, "_forward_module") or isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module  # type: ignore[assignment]
    return model


@contextmanager
def unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Put every buffer of `model`, such as running statistics, back on leaving."""
    saved = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, before in saved:
            # Past autograd's version counter: a mask that an outer graph holds is the same before and after.
            buffer.data.copy_(before)


@contextmanager
def crafting(model: nn.Module, mode: Mode = "eval") -> Iterator[nn.Module]:
    """Yield the bare model with weights as constants and every module in `mode`.

    Convolutions and their batch norms are computed as one inside `folding`, and inside `sparse_crafting` a network
    that is sparse enough is yielded in the sparse runtime. On leaving, the mode of each module is
    as before; no parameter's `.grad` and no buffer has changed
    (in `train` mode the buffers, such as running statistics, are put back).
    """
    inner = bare(model)
    modes = [(module, module.training) for module in inner.modules()]
    inner.train(mode == "train")
    try:
        aside = unchanged_buffers(inner) if mode == "train" else nullcontext()
        with aside, frozen_weights(inner):
            sparse = standing_in(inner) if mode == "eval" else None
            if sparse is not None:
                yield sparse
                return
            with folded(inner):
                yield inner
    finally:
        for module, training in modes:
            module.training = training


def check_images(x: Tensor, y: Tensor | None = None, num_classes: int | None = None) -> None:
    """Raise `DataError` unless `x` is `[N, ...]` float in [0,1] and `y` is `[N]` int64 in range."""
    if not x.is_floating_point():
        raise DataError(f"images are {x.dtype}; expected floats in [0,1] (divide 8-bit pixels by 255)")
    if x.numel() and not (x.min() >= 0 and x.max() <= 1):
        raise DataError(
            f"pixels run from {x.min().item():.4g} to {x.max().item():.4g}; expected [0,1]. Normalisation belongs "
            "inside the model (hedgerow.models.Normalize), not in the data"
        )
    if y is None:
        return
    if y.dtype != torch.int64 or y.shape != x.shape[:1]:
        raise DataError(
            f"labels are {y.dtype} {list(y.shape)}; expected int64 [{len(x)}], one class index per image"
        )
    if len(y) and (y.min() < 0 or (num_classes is not None and y.max() >= num_classes)):
        limit = "" if num_classes is None else f" to {num_classes - 1}"
        raise DataError(f"labels run from {y.min().item()} to {y.max().item()}; expected 0{limit}")
