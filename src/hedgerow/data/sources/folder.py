"""A folder of image files, one subfolder for each class."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from hedgerow.data.cache import cached_tensors
from hedgerow.data.dataset import Split
from hedgerow.data.decode import decode_files
from hedgerow.data.sources import SOURCES, Raw
from hedgerow.errors import DataError

EXPECTED = "expected train/<class>/<image file> and test/<class>/<image file>"
CLUTTER = frozenset({"Thumbs.db", "desktop.ini"})

Listing = dict[str, list[tuple[str, int, int]]]  # class -> (file name, bytes, time of change in ns)


@SOURCES.register("folder")
def folder(*, path: Path, image_size: int | None = None, grey: bool | None = None) -> Raw:
    """Your own images: a folder with train/<class>/<file> and test/<class>/<file>, any format Pillow reads.

    Without a `test` folder, `val` is taken as the test set; beside a `test` folder, `val` is not read (the
    validation images always come from `train`). Classes are the sorted folder names. `image_size` scales the
    shorter side to that many pixels and cuts out the centre square; without it all images must have one
    size. `grey=None` gives one channel when every file is grey (1, 8 or 16 bits) and RGB otherwise. Decoded
    images are cached until a file changes.

    Raises `DataError` for missing, empty or differing class folders (all of them at once), and for images
    that cannot be read or differ in size (up to five are named).
    """
    if image_size is not None and image_size < 1:
        raise DataError(f"image_size is {image_size}; it counts pixels, so give at least 1")
    found = {part: _scan(place) for part, place in _parts(path).items()}
    classes = _check(path, found)
    counts = {part: sum(map(len, listing.values())) for part, (_, listing) in found.items()}

    def decode() -> dict[str, Tensor]:
        files = [
            os.path.join(place, name, file)
            for place, listing in found.values()
            for name in classes
            for file, _, _ in listing[name]
        ]
        # Together, so that one grey file in train and one coloured in test still agree on the channels.
        pixels = decode_files(files, image_size=image_size, grey=grey, what=path.name)
        return {"train": pixels[: counts["train"]], "test": pixels[counts["train"] :]}

    identity = ["folder", str(path.resolve()), image_size, grey]
    images = cached_tensors(identity, [[Path(place).name, listing] for place, listing in found.values()], decode)
    labels = {
        part: torch.arange(len(classes)).repeat_interleave(torch.tensor([len(listing[c]) for c in classes]))
        for part, (_, listing) in found.items()
    }
    return Raw(
        label=f"Image folder {path.resolve().name}",
        classes=classes,
        train=Split(images["train"], labels["train"]),
        test=Split(images["test"], labels["test"]),
    )


def _parts(path: Path) -> dict[str, Path]:
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; {EXPECTED}")
    parts = {"train": path / "train", "test": path / "test"}
    if not parts["test"].is_dir() and (path / "val").is_dir():
        parts["test"] = path / "val"
    if missing := [part for part, place in parts.items() if not place.is_dir()]:
        raise DataError(f"{path}: has no folder {' and no folder '.join(missing)}; {EXPECTED}")
    return parts


def _scan(place: Path) -> tuple[str, Listing]:
    listing: Listing = {}
    nested = []
    with os.scandir(place) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    for name in names:
        with os.scandir(place / name) as entries:
            seen = [e for e in entries if not e.name.startswith(".") and e.name not in CLUTTER]
        nested += [e.path for e in seen if e.is_dir()]
        stats = [(e.name, e.stat()) for e in seen if not e.is_dir()]
        listing[name] = sorted((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats)
    if nested:
        raise DataError(f"{nested[0]}: a folder inside a class folder ({len(nested)} such); {EXPECTED}")
    return str(place), listing


def _check(path: Path, found: dict[str, tuple[str, Listing]]) -> tuple[str, ...]:
    (train_place, train), (test_place, test) = found["train"], found["test"]
    problems = [f"{os.path.join(p, n)}: empty class folder" for p, ls in found.values() for n in ls if not ls[n]]
    for place, names, others in ((test_place, test, train), (train_place, train, test)):
        if missing := sorted(others.keys() - names.keys()):
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            problems.append(f"{place}: has no class folder {shown}")
    if len(train) < 2:
        problems.append(f"{train_place}: a classifier needs at least 2 class folders, found {len(train)}")
    if problems:
        raise DataError("\n".join([f"{path}: {EXPECTED}, with the same classes", *(f"  - {p}" for p in problems)]))
    return tuple(train)
