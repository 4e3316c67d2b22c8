"""Training batches decoded by worker processes, a whole batch by one of them, a few ahead of what is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hedgerow.data.crops import random_box
from hedgerow.data.decode import read_image, reason_of, refuse
from hedgerow.data.streamed import StreamedSplit
from hedgerow.errors import DataError
from hedgerow.memory import return_freed_memory

AHEAD = 2  # batches that a worker prepares before one is taken


class Request(NamedTuple):
    """One batch: which files, and the `[n, tries, 4]` numbers in [0,1) that place a random crop in each, if any.

    Arrays, since tensors would go to the workers through shared memory.
    """

    places: np.ndarray[Any, np.dtype[np.int64]]
    dice: np.ndarray[Any, np.dtype[np.float32]] | None = None


class _Decoded(NamedTuple):
    pixels: Tensor
    places: np.ndarray[Any, np.dtype[np.int64]]
    broken: tuple[str, ...]


def read_batches(split: StreamedSplit, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images `[n, C, H, W]` (uint8) and labels `[n]` of each request, in order, on the split's device.

    Workers change nothing but the speed. From then on freed memory goes back to the system at once. Raises
    `DataError` naming the files that cannot be read, and when a worker process ends.
    """
    return_freed_memory()  # workers, which are forked, do so too
    count = split.reading.processes
    loader: DataLoader[_Decoded] = DataLoader(
        _Batches(split.to("cpu")),
        batch_size=None,
        sampler=requests,
        num_workers=count,
        prefetch_factor=AHEAD if count else None,
        collate_fn=_unchanged,
        pin_memory=split.device.type == "cuda",
        generator=torch.Generator(),  # without one it would draw from the global numbers
    )
    with worker_errors():
        for pixels, places, broken in loader:
            refuse(list(broken), [], "", len(places))
            labels = split.labels[torch.from_numpy(places)]
            yield pixels.to(split.device, non_blocking=True), labels.to(split.device)


@contextmanager
def worker_errors() -> Iterator[None]:
    """Turn the end of a worker process, of which torch tells wherever the program is, into a `DataError`."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        told = " ".join(str(error).split())
        raise DataError(
            f"a process that decodes images has ended: {told} Mostly memory ran out, or shared memory (in a "
            "container: --shm-size): lower data.workers or batch_size, then give the same command again"
        ) from error


class _Batches(Dataset[_Decoded]):
    """Whole batches by request, so that their order and their crops are settled before a worker sees them."""

    def __init__(self, split: StreamedSplit) -> None:
        self.split = split

    def __getitem__(self, request: Request) -> _Decoded:
        reading, (channels, height, width) = self.split.reading, self.split.shape
        pixels = np.zeros((len(request.places), channels, height, width), np.uint8)
        broken = []
        for i, path in enumerate(self.split.paths(request.places.tolist())):
            cut = reading.cut if request.dice is None else partial(random_box, dice=request.dice[i].tolist())
            try:
                image = read_image(path, image_size=reading.image_size, grey=reading.grey, cut=cut)
            except Exception as error:  # Pillow's plugins fail in many ways
                broken.append(f"{path}: {reason_of(error)}")
                continue
            pixels[i] = image.transpose(2, 0, 1) if image.ndim == 3 else image
        return _Decoded(torch.from_numpy(pixels), request.places, tuple(broken))


def _unchanged(batch: Any) -> Any:
    return batch
