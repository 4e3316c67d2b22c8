"""The table of engines. An engine is a class that reads files of some suffixes and gives back a function."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from hedgerow.errors import CheckpointError, DataError
from hedgerow.registry import Registry

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Loaded:
    """A file ready to run: images `[N, *shape]` float32 in [0,1] to logits `[N, classes]` float32.

    `batch` is the one batch size that the file takes, None for any. Raises `DataError` for images of another shape
    or type, and for none.
    """

    path: Path
    shape: tuple[int, ...]
    compute: Callable[[Floats], Floats]
    batch: int | None = None

    def __call__(self, images: Floats) -> Floats:
        """Return the logits of a batch."""
        wrong_batch = self.batch not in (None, len(images)) or not len(images)
        if images.dtype != np.float32 or images.shape[1:] != self.shape or wrong_batch:
            raise DataError(
                f"{self.path}: images are {images.dtype} {list(images.shape)}; this file takes float32 "
                f"[{self.batch or 'N'}, {', '.join(map(str, self.shape))}] in [0,1], at least one"
            )
        return self.compute(np.ascontiguousarray(images))


class Engine(Protocol):
    """Reads files whose names end in one of `reads`; those it writes nothing into."""

    reads: ClassVar[tuple[str, ...]]

    @staticmethod
    def load(path: Path, threads: int) -> Loaded:
        """Return the network of a file, to be computed by so many threads.

        Raises `CheckpointError` for a file that is not whole, `MissingPackageError`, and `ModelError` for a
        network that the engine cannot run.
        """


ENGINES: Registry[type[Engine]] = Registry("engine")


def check_file(path: Path) -> None:
    """Raise `CheckpointError` unless there is such a file."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what libraries remark about packages and deprecations, and no user can act on, off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
