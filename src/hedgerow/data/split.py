"""A set of labelled images in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hedgerow.errors import DataError
from hedgerow.seeds import generator


def unset() -> Tensor:
    """Return positions that nobody gave."""
    return torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class Split:
    """Images `[N, C, H, W]` (uint8) with their labels `[N]` (int64).

    `positions` `[N]` (int64) says where each image stood in the set it was taken from; by default `0..N-1`.
    Raises `DataError` for another dtype or shape, and for an empty split.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    positions: Tensor = field(default_factory=unset, repr=False)

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise DataError(
                f"images are {self.images.dtype} {list(self.images.shape)}; expected torch.uint8 [N, C, H, W]"
            )
        if self.labels.dtype != torch.int64 or self.labels.dim() != 1:
            raise DataError(f"labels are {self.labels.dtype} {list(self.labels.shape)}; expected torch.int64 [N]")
        if len(self.images) != len(self.labels):
            raise DataError(
                f"{len(self.images):,} images and {len(self.labels):,} labels; each image needs one label"
            )
        if self.images.numel() == 0:
            raise DataError(f"the split is empty: images {list(self.images.shape)}; give at least one image")
        if self.positions.numel() == 0:
            object.__setattr__(self, "positions", torch.arange(len(self.labels), device=self.labels.device))
        if self.positions.shape != self.labels.shape or self.positions.dtype != torch.int64:
            raise DataError(f"positions are {list(self.positions.shape)}; expected one int64 for each image")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    def to(self, device: torch.device | str) -> Split:
        """Return the same split on `device`."""
        return Split(self.images.to(device), self.labels.to(device), self.positions.to(device))

    def select(self, index: Tensor) -> Split:
        """Return the images at `index` `[M]` (int64), in that order; `positions` go with them."""
        index = index.to(self.device)
        return Split(self.images[index], self.labels[index], self.positions[index])

    def take(self, n: int | None, seed: int) -> Split:
        """Return `n` images drawn at random by `seed`, in their old order; all for `None` or `n >= len`.

        Raises `DataError` when `n` is below 1.
        """
        chosen = drawn(len(self), n, seed)
        return self if chosen is None else self.select(chosen)

    def pixels(self, index: Tensor | slice | None = None) -> Tensor:
        """Return the images at `index` (default: all) as float32 `[M, C, H, W]` in [0,1]."""
        chosen = self.images if index is None else self.images[index]
        return chosen.to(torch.float32).div_(255.0)

    def resident(self) -> Split:
        """Return itself: the images are in memory."""
        return self


def drawn(available: int, n: int | None, seed: int) -> Tensor | None:
    """Return `n` of `available` positions `[n]` drawn by `seed`, sorted; None when that is all of them.

    Raises `DataError` when `n` is below 1.
    """
    if n is None or n >= available:
        return None
    if n < 1:
        raise DataError(f"cannot take {n} images; give 1 to {available}, or none for all")
    return torch.randperm(available, generator=generator(seed, "take"))[:n].sort().values


def check_labels(labels: Tensor, classes: int, where: str) -> None:
    """Raise `DataError` naming the first of `labels` `[N]` outside `0..classes-1`, and its position."""
    wrong = ((labels < 0) | (labels >= classes)).nonzero().flatten()
    if len(wrong):
        position = int(wrong[0])
        more = f" ({len(wrong):,} such labels)" if len(wrong) > 1 else ""
        raise DataError(
            f"{where}: label {int(labels[position])} at position {position}, and {classes} classes: "
            f"labels run from 0 to {classes - 1}{more}"
        )


def join(splits: Sequence[Split]) -> Split:
    """Return the images of all `splits` one after another, with new positions."""
    return Split(torch.cat([s.images for s in splits]), torch.cat([s.labels for s in splits]))
