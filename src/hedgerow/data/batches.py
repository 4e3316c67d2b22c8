"""Batches as a function of (seed, epoch, step): a run that stops can go on with exactly the next batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from hedgerow.data.augment import AUGMENTATIONS, Augmentation, resized_crop
from hedgerow.data.crops import TRIES
from hedgerow.data.split import Split
from hedgerow.data.streamed import AnySplit, StreamedSplit
from hedgerow.data.workers import Request, read_batches
from hedgerow.errors import DataError
from hedgerow.seeds import generator

Part = Callable[[int], slice]


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


def batch_length(n: int, batch_size: int, step: int) -> int:
    """Return how many images batch number `step` of an epoch over `n` images has."""
    return min(batch_size, n - step * batch_size)


def everything(count: int) -> slice:
    """Return all places of a batch of `count` images."""
    return slice(0, count)


def epoch_batches(
    split: AnySplit,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    augment: Sequence[str] = (),
    drop_last: bool = False,
    start: int = 0,
    part: Part = everything,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return the batches of one epoch from step `start`: float32 `[B, C, H, W]` in [0,1] and int64 `[B]`.

    The order depends on (seed, epoch) and the augmentation of a step on (seed, epoch, step), so that starting
    at `start` gives the batches of an uninterrupted pass, a GPU gives those of a CPU, and any number of worker
    processes gives those of none. Batches are on the split's device. Of each batch only the `part` made of its
    length is returned, and decoded: all of it, or the share of one process among several. Raises
    `UnknownNameError` for an augmentation nobody registered and `DataError` for an impossible `batch_size` or
    `start`, before the first batch; of streamed images, with a batch, what `read_batches` raises.
    """
    steps = steps_per_epoch(len(split), batch_size, drop_last)
    if not 0 <= start <= steps:
        raise DataError(f"cannot start at step {start}: the epoch has {steps} steps")
    parts = [AUGMENTATIONS[name] for name in augment]
    order = torch.randperm(len(split), generator=generator(seed, "order", epoch))
    dice = (generator(seed, "augment", epoch, i) for i in range(start, steps))
    if isinstance(split, StreamedSplit):
        places = [order[i * batch_size : (i + 1) * batch_size] for i in range(start, steps)]
        crops = (generator(seed, "resized-crop", epoch, i) for i in range(start, steps))
        return _streamed(split, places, parts, dice, crops, part)
    order = order.to(split.device)
    whole = (order[i * batch_size : (i + 1) * batch_size] for i in range(start, steps))
    return (_batch(split, index, parts, die, part) for index, die in zip(whole, dice, strict=True))


def _batch(
    split: Split, index: Tensor, parts: Sequence[Augmentation], die: torch.Generator, part: Part
) -> tuple[Tensor, Tensor]:
    images, own = _changed(split.images[index], parts, die), part(len(index))
    return images[own].to(torch.float32).div_(255.0), split.labels[index[own]]


def _streamed(
    split: StreamedSplit,
    places: Sequence[Tensor],
    parts: Sequence[Augmentation],
    dice: Iterator[torch.Generator],
    crops: Iterator[torch.Generator],
    part: Part,
) -> Iterator[tuple[Tensor, Tensor]]:
    cropped = resized_crop in parts  # while decoding; the others follow here
    parts = [one for one in parts if one is not resized_crop]
    requests = (
        _request(index, crop if cropped else None, part) for index, crop in zip(places, crops, strict=True)
    )
    for (images, labels), index, die in zip(read_batches(split, requests), places, dice, strict=True):
        own = part(len(index))
        whole = images
        if len(images) < len(index):  # the dice are for all of the batch, whoever has which part of it
            whole = images.new_zeros(len(index), *images.shape[1:])
            whole[own] = images
        yield _changed(whole, parts, die)[own].to(torch.float32).div_(255.0), labels


def _request(index: Tensor, crop: torch.Generator | None, part: Part) -> Request:
    own = part(len(index))
    dice = None if crop is None else torch.rand(len(index), TRIES, 4, generator=crop)[own].numpy()
    return Request(index[own].numpy(), dice)


def _changed(images: Tensor, parts: Sequence[Augmentation], die: torch.Generator) -> Tensor:
    for change in parts:  # still uint8: a quarter of the memory traffic of float32
        images = change(images, die)
    return images
