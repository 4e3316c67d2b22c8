"""Random draws in which every class keeps its share."""

from __future__ import annotations

import torch
from torch import Tensor

from hedgerow.errors import DataError
from hedgerow.seeds import generator


def allocate(sizes: Tensor, count: int, *, leave: int = 0) -> Tensor:
    """Share `count` draws among classes of `sizes` `[C]` (int64), by largest remainder; returns `[C]`.

    At least `leave` of every class stay undrawn. Raises `DataError` when that leaves fewer than `count`.
    """
    room = (sizes - leave).clamp_min(0)
    if count > int(room.sum()):
        raise DataError(
            f"cannot draw {count:,} of {int(sizes.sum()):,} images and leave {leave} of every class; "
            f"{int(room.sum()):,} is the most"
        )
    # In whole numbers, so that equal remainders tie exactly (the lower class then goes first).
    total = max(1, int(sizes.sum()))
    counts = torch.minimum(sizes * count // total, room)
    for _ in range(count - int(counts.sum())):
        lack = (sizes * count - counts * total).masked_fill(counts >= room, torch.iinfo(torch.int64).min)
        counts[int(lack.argmax())] += 1
    return counts


def draw(labels: Tensor, count: int, *, seed: int, place: str, leave: int = 0) -> tuple[Tensor, Tensor]:
    """Draw `count` positions at random, stratified by `labels` `[N]` (int64, on the CPU).

    Returns the drawn and the other positions, both sorted. The draw depends on `seed` and `place` alone.
    Raises `DataError` when fewer than `count` can be drawn with `leave` of every class left over.
    """
    shuffled = torch.randperm(len(labels), generator=generator(seed, place))
    order = shuffled[labels[shuffled].argsort(stable=True)]
    grouped = labels[order]
    sizes = torch.bincount(labels)
    rank = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[grouped]
    drawn = rank < allocate(sizes, count, leave=leave)[grouped]
    return order[drawn].sort().values, order[~drawn].sort().values
