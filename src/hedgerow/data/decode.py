"""Many image files to one tensor, on all cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from hedgerow.data.crops import Box, centre_box
from hedgerow.errors import DataError

Cut = Callable[[int, int], Box]  # width, height -> what is kept
Pixels = np.ndarray[Any, np.dtype[np.uint8]]
DEEP_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
GREY_MODES = DEEP_MODES | {"1", "L"}
SHOWN = 5
CHUNK = 128


def read_image(
    file: str, *, image_size: int | None = None, grey: bool | None = None, cut: Cut = centre_box
) -> Pixels:
    """Return one image as uint8 `[H, W]` (grey) or `[H, W, 3]`; `grey=None` keeps what the file is.

    With `image_size`, what `cut` keeps (the centre square) is scaled to it. 16-bit grey is scaled to 8 bits.
    Raises whatever Pillow raises for a file it cannot read, `ValueError` for float pixels.
    """
    with Image.open(file) as opened:
        image: Image.Image = opened
        mode = "L" if grey or (grey is None and image.mode in GREY_MODES) else "RGB"
        if image.mode == "F":
            raise ValueError("floating-point pixels have no fixed range; save it with 8 or 16 bits")
        if image.mode in DEEP_MODES:
            image = Image.fromarray(_eight_bits(np.asarray(image)))
        if image.mode != mode:
            image = image.convert(mode)
        if image_size is not None:
            box = cut(*image.size)
            image = image.resize((image_size, image_size), Image.Resampling.BILINEAR, box=box)
        return np.asarray(image)


def _eight_bits(values: np.ndarray[Any, Any]) -> Pixels:
    wide = values.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise ValueError("pixel values outside 0 to 65535; save it with 8 or 16 bits")
    return ((wide * 255 + 32767) // 65535).astype(np.uint8)


def decode_files(
    files: Sequence[str],
    *,
    image_size: int | None = None,
    grey: bool | None = None,
    what: str = "images",
    cut: Cut = centre_box,
) -> Tensor:
    """Return all images as one uint8 tensor `[N, C, H, W]`; C is 1 when every file is grey or `grey` is set.

    Raises `DataError` naming up to five files that cannot be read, or that differ in size from the first one
    while no `image_size` is given, and how many there are.
    """
    first, shape = _first_shape(files, image_size, grey)
    pixels = np.zeros((len(files), 1 if grey else 3, *shape), np.uint8)
    coloured = np.zeros(len(files), np.bool_)

    def decode(chunk: range) -> tuple[list[str], list[str]]:
        broken, odd = [], []
        for i in chunk:
            try:
                image = read_image(files[i], image_size=image_size, grey=grey, cut=cut)
            except Exception as error:  # Pillow's plugins fail in many ways
                broken.append(f"{files[i]}: {reason_of(error)}")
                continue
            if image.shape[:2] != shape:
                odd.append(f"{files[i]} is {_size(image.shape)}")
                continue
            coloured[i] = image.ndim == 3
            pixels[i] = image.transpose(2, 0, 1) if image.ndim == 3 else image
        return broken, odd

    chunks = [range(i, min(i + CHUNK, len(files))) for i in range(0, len(files), CHUNK)]
    broken: list[str] = []
    odd: list[str] = []
    console = Console(stderr=True)
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task(f"Decoding {what}", total=len(files))
        for chunk, (unread, unlike) in zip(chunks, pool.map(decode, chunks), strict=True):
            broken += unread
            odd += unlike
            progress.advance(task, len(chunk))
    refuse(broken, odd, f"the first image, {first}, is {_size(shape)}", len(files))
    kept = pixels if coloured.any() else np.ascontiguousarray(pixels[:, :1])
    return torch.from_numpy(kept)


def _first_shape(files: Sequence[str], image_size: int | None, grey: bool | None) -> tuple[str, tuple[int, int]]:
    if image_size is not None:
        return files[0], (image_size, image_size)
    for file in files:
        try:
            height, width = read_image(file, grey=grey).shape[:2]
        except Exception:  # named later, with the others
            continue
        return file, (height, width)
    return files[0], (1, 1)


def refuse(broken: list[str], odd: list[str], first: str, total: int) -> None:
    """Raise `DataError` for files of `total` that are broken, or odd beside the `first`, with five of each."""
    parts = []
    if broken:
        parts += [
            f"{len(broken):,} of {total:,} images cannot be read; repair or remove them",
            *_some(broken),
        ]
    if odd:
        parts += [
            f"{len(odd):,} of {total:,} images differ in size (width x height): {first}. "
            "Give image_size to scale and crop them all",
            *_some(odd),
        ]
    if parts:
        raise DataError("\n".join(parts))


def _some(items: list[str]) -> list[str]:
    more = [f"  - and {len(items) - SHOWN:,} more"] if len(items) > SHOWN else []
    return [*(f"  - {item}" for item in items[:SHOWN]), *more]


def reason_of(error: Exception) -> str:
    """Return why an image cannot be read, in words."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a format that Pillow reads"
    return str(error) or type(error).__name__


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
