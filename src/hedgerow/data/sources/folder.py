"""A folder of image files, one subfolder for each class."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from hedgerow.data.cache import cached_tensors
from hedgerow.data.decode import decode_files
from hedgerow.data.listing import Files, class_files, class_problems, streamed
from hedgerow.data.sources import SOURCES, Raw
from hedgerow.data.split import Split
from hedgerow.data.streamed import GIB, Reading
from hedgerow.errors import DataError

EXPECTED = "expected train/<class>/<image file> and test/<class>/<image file>"


@SOURCES.register("folder")
def folder(
    *,
    path: Path,
    image_size: int | None = None,
    grey: bool | None = None,
    stream: bool | None = None,
    workers: int | None = None,
    memory: float = 8.0,
) -> Raw:
    """Your own images: a folder with train/<class>/<file> and test/<class>/<file>, any format Pillow reads.

    Without a `test` folder, `val` is taken as the test set; beside a `test` folder, `val` is not read (the
    validation images always come from `train`). Classes are the sorted folder names. `image_size` scales the
    shorter side to that many pixels and cuts out the centre square; without it all images must have one
    size. `grey=None` gives one channel when every file is grey (1, 8 or 16 bits) and RGB otherwise. Decoded
    images are cached until a file changes.

    With `stream` the images stay in their files (`image_size` is then needed, and `grey=None` gives RGB), read
    with `workers` and `memory` as in `Reading`; `stream=None` does so when they would not fit into `memory`.

    Raises `DataError` for missing, empty or differing class folders (all of them at once), and for images
    that cannot be read or differ in size (up to five are named).
    """
    if stream and image_size is None:
        raise DataError("stream: true needs image_size, the pixels of every image's side: nothing else tells it")
    side = 1 if image_size is None else image_size
    reading = Reading(image_size=side, grey=bool(grey), workers=workers, memory=memory)
    places = _parts(path)
    found = {part: class_files(place, EXPECTED) for part, place in places.items()}
    problems = class_problems({part: (place, found[part]) for part, place in places.items()})
    if problems:
        raise DataError("\n".join([f"{path}: {EXPECTED}, with the same classes", *(f"  - {p}" for p in problems)]))
    count = sum(len(files) for listing in found.values() for files in listing.values())
    if stream is None and image_size is not None:
        stream = 3 * image_size**2 * count > memory * GIB
    make = _resident if not stream else lambda *_: {p: streamed(places[p], found[p], reading) for p in found}
    splits = make(path, places, found, image_size, grey)
    return Raw(
        label=f"Image folder {path.resolve().name}",
        classes=tuple(found["train"]),
        train=splits["train"],
        test=splits["test"],
    )


def _resident(
    path: Path, places: dict[str, Path], found: dict[str, Files], image_size: int | None, grey: bool | None
) -> dict[str, Split]:
    """Decode all images of both parts, or take them from the cache."""
    files = {
        part: [str(places[part] / f) for fs in listing.values() for f in fs] for part, listing in found.items()
    }

    def decode() -> dict[str, Tensor]:
        # Together, so that one grey file in train and one coloured in test still agree on the channels.
        both = [*files["train"], *files["test"]]
        pixels = decode_files(both, image_size=image_size, grey=grey, what=path.name)
        return {"train": pixels[: len(files["train"])], "test": pixels[len(files["train"]) :]}

    identity = ["folder", str(path.resolve()), image_size, grey]
    images = cached_tensors(identity, [[places[part].name, _states(files[part])] for part in files], decode)
    labels = {
        part: torch.arange(len(listing)).repeat_interleave(torch.tensor([len(fs) for fs in listing.values()]))
        for part, listing in found.items()
    }
    return {part: Split(images[part], labels[part]) for part in files}


def _states(files: list[str]) -> list[tuple[str, int, int]]:
    """Return the end of each path, the file's bytes and its time of change in ns: what the cache depends on."""
    stats = [(file, os.stat(file)) for file in files]
    return [("/".join(Path(file).parts[-2:]), stat.st_size, stat.st_mtime_ns) for file, stat in stats]


def _parts(path: Path) -> dict[str, Path]:
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; {EXPECTED}")
    parts = {"train": path / "train", "test": path / "test"}
    if not parts["test"].is_dir() and (path / "val").is_dir():
        parts["test"] = path / "val"
    if missing := [part for part, place in parts.items() if not place.is_dir()]:
        raise DataError(f"{path}: has no folder {' and no folder '.join(missing)}; {EXPECTED}")
    return parts
