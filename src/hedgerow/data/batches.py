"""Batches as a function of (seed, epoch, step): a run that stops can go on with exactly the next batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from hedgerow.data.augment import AUGMENTATIONS, Augmentation
from hedgerow.data.dataset import Split
from hedgerow.errors import DataError
from hedgerow.seeds import generator


def steps_per_epoch(n: int, batch_size: int, drop_last: bool = False) -> int:
    """Return how many batches `epoch_batches` makes of `n` images.

    A last batch of one image is dropped unless it is the only one: batch normalisation cannot train on it.
    Raises `DataError` when `batch_size` is below 1, or above `n` with `drop_last`.
    """
    if batch_size < 1:
        raise DataError(f"batch_size is {batch_size}; it counts images, so give at least 1")
    full, rest = divmod(n, batch_size)
    if drop_last and not full:
        raise DataError(f"batch_size is {batch_size:,} and there are {n:,} images: drop_last leaves no batch")
    lonely = rest == 1 and full > 0
    return full + int(rest > 0 and not drop_last and not lonely)


def epoch_batches(
    split: Split,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    augment: Sequence[str] = (),
    drop_last: bool = False,
    start: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return the batches of one epoch from step `start`: float32 `[B, C, H, W]` in [0,1] and int64 `[B]`.

    The order depends on (seed, epoch) and the augmentation of a step on (seed, epoch, step), so that starting
    at `start` gives the batches of an uninterrupted pass, and a GPU gives those of a CPU. Batches are on the
    split's device. Raises `UnknownNameError` for an augmentation nobody registered and `DataError` for an
    impossible `batch_size` or `start`, both before the first batch.
    """
    steps = steps_per_epoch(len(split), batch_size, drop_last)
    if not 0 <= start <= steps:
        raise DataError(f"cannot start at step {start}: the epoch has {steps} steps")
    parts = [AUGMENTATIONS[name] for name in augment]
    order = torch.randperm(len(split), generator=generator(seed, "order", epoch)).to(split.device)
    places = (order[i * batch_size : (i + 1) * batch_size] for i in range(start, steps))
    dice = (generator(seed, "augment", epoch, i) for i in range(start, steps))
    return (_batch(split, index, parts, die) for index, die in zip(places, dice, strict=True))


def _batch(
    split: Split, index: Tensor, parts: Sequence[Augmentation], die: torch.Generator
) -> tuple[Tensor, Tensor]:
    images = split.images[index]
    for part in parts:  # still uint8: a quarter of the memory traffic of float32
        images = part(images, die)
    return images.to(torch.float32).div_(255.0), split.labels[index]
