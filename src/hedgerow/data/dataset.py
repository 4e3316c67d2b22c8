"""Images and labels in memory: a `Split` is one set of them, a `Dataset` the three that a run needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from hedgerow.errors import DataError
from hedgerow.seeds import generator

STD_FLOOR = 1e-3


def _unset() -> Tensor:
    return torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class Split:
    """Images `[N, C, H, W]` (uint8) with their labels `[N]` (int64).

    `positions` `[N]` (int64) says where each image stood in the set it was taken from; by default `0..N-1`.
    Raises `DataError` for another dtype or shape, and for an empty split.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    positions: Tensor = field(default_factory=_unset, repr=False)

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
        if n is None or n >= len(self):
            return self
        if n < 1:
            raise DataError(f"cannot take {n} images; give 1 to {len(self)}, or none for all")
        return self.select(torch.randperm(len(self), generator=generator(seed, "take"))[:n].sort().values)

    def pixels(self, index: Tensor | slice | None = None) -> Tensor:
        """Return the images at `index` (default: all) as float32 `[M, C, H, W]` in [0,1]."""
        chosen = self.images if index is None else self.images[index]
        return chosen.to(torch.float32).div_(255.0)


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


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training, validation and test images of one source, all of one shape.

    `name` is the source's, `label` is for people. Raises `DataError` when a label has no class, or when the
    images of two splits differ in shape.
    """

    name: str
    label: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    def __post_init__(self) -> None:
        for part, split in self.splits.items():
            check_labels(split.labels, len(self.classes), f"{self.label}, {part}")
            if split.images.shape[1:] != self.train.images.shape[1:]:
                raise DataError(
                    f"{self.label}: {part} images are {list(split.images.shape[1:])} and training images "
                    f"{list(self.train.images.shape[1:])}; all splits need one shape"
                )

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return self.train.images.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.train.images.shape[2], self.train.images.shape[3]

    @cached_property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        # A histogram of 256 integers is exact: the same on every device, and no float copy of the images.
        values = torch.arange(256, dtype=torch.float64) / 255.0
        means, stds = [], []
        for channel in self.train.images.unbind(1):
            counts = torch.bincount(channel.flatten(), minlength=256).cpu().to(torch.float64)
            share = counts / counts.sum()
            mean = float((share * values).sum())
            means.append(mean)
            stds.append(max(float((share * (values - mean).square()).sum()) ** 0.5, STD_FLOOR))
        return tuple(means), tuple(stds)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel over the training images, in [0,1]."""
        return self._moments[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel over the training images ([0,1] units), at least 0.001."""
        return self._moments[1]

    def to(self, device: torch.device | str) -> Dataset:
        """Return the same dataset with every split on `device`."""
        moved = {part: split.to(device) for part, split in self.splits.items()}
        return replace(self, **moved)  # type: ignore[arg-type]


def join(splits: Sequence[Split]) -> Split:
    """Return the images of all `splits` one after another, with new positions."""
    return Split(torch.cat([s.images for s in splits]), torch.cat([s.labels for s in splits]))
