"""Street View House Numbers, cropped digits (Netzer et al. 2011), from its two MATLAB files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hedgerow.data.sources import SOURCES, Raw
from hedgerow.data.split import Split
from hedgerow.errors import DataError

EXPECTED = "expected a MATLAB 5 file with X, uint8 [32, 32, 3, N], and y, [N, 1] with labels 1 to 10 (10 means 0)"


@SOURCES.register("svhn")
def svhn(*, path: Path) -> Raw:
    """Street View House Numbers 32x32: a folder with train_32x32.mat and test_32x32.mat.

    Raises `DataError` naming the file that is missing or broken, and what was expected of it.
    """
    return Raw(
        label="SVHN",
        classes=tuple(map(str, range(10))),
        train=_read(path / "train_32x32.mat"),
        test=_read(path / "test_32x32.mat"),
    )


def _read(file: Path) -> Split:
    from scipy.io import loadmat

    if not file.is_file():
        raise DataError(f"{file}: no such file; {EXPECTED}")
    try:
        held = loadmat(str(file), variable_names=["X", "y"])
    except Exception as error:  # the reader fails in as many ways as there are broken files
        raise DataError(f"{file}: cannot be read ({type(error).__name__}: {error}); {EXPECTED}") from error
    if missing := [name for name in ("X", "y") if name not in held]:
        raise DataError(f"{file}: has no {' and no '.join(missing)}; {EXPECTED}")
    images, labels = np.asarray(held["X"]), np.asarray(held["y"]).reshape(-1)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3) or not len(labels):
        raise DataError(f"{file}: X is {images.dtype} {list(images.shape)}; {EXPECTED}")
    if len(labels) != images.shape[3] or labels.dtype.kind not in "uif":
        raise DataError(f"{file}: {images.shape[3]:,} images and {len(labels):,} labels; {EXPECTED}")
    wrong = np.flatnonzero(~np.isin(labels, np.arange(1, 11)))
    if len(wrong):
        raise DataError(f"{file}: label {labels[wrong[0]]} at position {wrong[0]}; {EXPECTED}")
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1)))
    return Split(pixels, torch.from_numpy(labels.astype(np.int64) % 10))
