"""Images that stay in their files and are decoded when they are needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hedgerow.data.crops import centre_box
from hedgerow.data.decode import Cut, decode_files
from hedgerow.data.split import Split, drawn, unset
from hedgerow.errors import DataError

GIB = 2**30
MOST_WORKERS = 8
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files become images, and what that may cost.

    The square of `share` of the shorter side in the middle is scaled to `image_size` pixels; training may cut out
    another part. `workers` processes decode training batches: 0 for none but this one, None for one for each core
    (8 at most). `memory` is how many GiB the images decoded at once, for validation and evaluation, may take as
    float32. Raises `DataError` for values out of range.
    """

    image_size: int
    share: float = 1.0
    grey: bool = False
    workers: int | None = None
    memory: float = 8.0

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise DataError(f"image_size is {self.image_size}; it counts pixels, so give at least 1")
        if self.workers is not None and self.workers < 0:
            raise DataError(f"workers is {self.workers}; it counts processes: 1 or more, or 0 for none")
        if not self.memory > 0:
            raise DataError(f"memory is {self.memory}; it is in GiB, so give a number above 0")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return 1 if self.grey else 3, self.image_size, self.image_size

    @property
    def cut(self) -> Cut:
        """What is kept of an image that is not cut at random."""
        return partial(centre_box, share=self.share)

    @property
    def processes(self) -> int:
        """How many worker processes there are to be."""
        return min(cores(), MOST_WORKERS) if self.workers is None else self.workers


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, eq=False)
class StreamedSplit:
    """Image files below the folder `root` with their labels `[N]` (int64), read as `reading` says.

    `files` are their names as bytes, one array, so that worker processes share its memory. `pixels` and `resident`
    decode; training batches come from `epoch_batches`, on `device`. `positions` as in a `Split`. Raises
    `DataError` for an empty split and for labels that are not one int64 for each file.
    """

    root: str
    files: np.ndarray[Any, np.dtype[np.bytes_]] = field(repr=False)
    labels: Tensor = field(repr=False)
    reading: Reading
    positions: Tensor = field(default_factory=unset, repr=False)
    device: torch.device = CPU

    def __post_init__(self) -> None:
        if not len(self.files):
            raise DataError(f"{self.root}: the split is empty; give at least one image")
        if self.labels.dtype != torch.int64 or self.labels.shape != (len(self.files),):
            raise DataError(
                f"labels are {self.labels.dtype} {list(self.labels.shape)}; expected one int64 for each of the "
                f"{len(self.files):,} files"
            )
        if self.positions.numel() == 0:
            object.__setattr__(self, "positions", torch.arange(len(self.labels)))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        return self.reading.shape

    def to(self, device: torch.device | str) -> StreamedSplit:
        """Return the same split with its batches on `device`; the labels here stay on the CPU."""
        return replace(self, device=torch.device(device))

    def select(self, index: Tensor) -> StreamedSplit:
        """Return the files at `index` `[M]` (int64), in that order; `positions` go with them."""
        index = index.cpu()
        return replace(
            self, files=self.files[index.numpy()], labels=self.labels[index], positions=self.positions[index]
        )

    def take(self, n: int | None, seed: int) -> StreamedSplit:
        """Return `n` files drawn as `Split.take` draws images; nothing is decoded."""
        chosen = drawn(len(self), n, seed)
        return self if chosen is None else self.select(chosen)

    def paths(self, index: Sequence[int] | None = None) -> list[str]:
        """Return the files at `index` (default: all) with their folders."""
        chosen = self.files if index is None else self.files[list(index)]
        return [os.path.join(self.root, os.fsdecode(bytes(name))) for name in chosen]

    def pixels(self, index: Tensor | slice | None = None) -> Tensor:
        """Decode the images at `index` (default: all) to float32 `[M, C, H, W]` in [0,1]; raises as `resident`."""
        chosen = self if index is None else self.select(torch.arange(len(self))[index])
        return chosen.resident().pixels()

    def resident(self) -> Split:
        """Decode all images. Raises `DataError` for more than memory has room for, and naming broken files."""
        self.check_room(len(self), f"{len(self):,} images of {self.root}", "take fewer, or raise memory")
        reading = self.reading
        images = decode_files(self.paths(), image_size=reading.image_size, grey=reading.grey, cut=reading.cut)
        return Split(images, self.labels, self.positions).to(self.device)

    def check_room(self, count: int, what: str, advice: str) -> None:
        """Raise `DataError` when `count` decoded images would take more than the memory that they may."""
        channels, height, width = self.shape
        needed, allowed = 4 * count * channels * height * width / GIB, self.reading.memory
        if needed > allowed:
            raise DataError(
                f"{what}: at {height}x{width} they would take {needed:,.2g} GiB decoded, and data.memory allows "
                f"{allowed:g}: {advice}"
            )


AnySplit = Split | StreamedSplit


def listed_files(names: Sequence[str]) -> np.ndarray[Any, np.dtype[np.bytes_]]:
    """Return file names as one array of bytes: a list of a million strings would be copied into every worker."""
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_)
