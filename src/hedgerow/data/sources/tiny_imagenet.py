"""Tiny-ImageNet (Stanford CS231n): 200 classes of ImageNet at 64x64, streamed or in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hedgerow.data.listing import Files, class_files, class_names, class_problems, shown, streamed
from hedgerow.data.sources import SOURCES, Raw
from hedgerow.data.streamed import Reading
from hedgerow.errors import DataError

EXPECTED = (
    "expected wnids.txt, train/<synset>/images/<file>.JPEG, val/images/<file>.JPEG and val/val_annotations.txt"
)


@SOURCES.register("tiny-imagenet")
def tiny_imagenet(*, path: Path, image_size: int = 64, workers: int | None = None, memory: float = 8.0) -> Raw:
    """Tiny-ImageNet, streamed: the unpacked folder with wnids.txt, train/<synset>/images and val/images.

    Its validation images, labelled by val/val_annotations.txt or sorted into class folders, are the test split;
    its test images have no labels and are not read. Labels number the sorted synsets, not the lines of wnids.txt,
    which must name the same ones where it is there. `image_size`, `workers` and `memory` as in `Reading`.

    Raises `DataError` for missing, empty or differing class folders, and for images without a label.
    """
    reading = Reading(image_size=image_size, workers=workers, memory=memory)
    places = {"train": path / "train", "test": path / "val"}
    for place in places.values():
        if not place.is_dir():
            raise DataError(f"{place}: no such folder; {EXPECTED}")
    train = _without_boxes(class_files(places["train"], EXPECTED, inner="images"))
    flat = (places["test"] / "images").is_dir()
    if flat:
        test = _annotated(places["test"])
    else:
        test = _without_boxes(class_files(places["test"], EXPECTED, inner="images"))
    what = "image of class" if flat else "class folder"
    problems = class_problems({p: (places[p], ls) for p, ls in (("train", train), ("test", test))}, what=what)
    problems += _other_wnids(path / "wnids.txt", train)
    if problems:
        raise DataError("\n".join([f"{path}: {EXPECTED}, with the same classes", *(f"  - {p}" for p in problems)]))
    return Raw(
        label="Tiny-ImageNet",
        classes=class_names(train, path),
        train=streamed(places["train"], train, reading),
        test=streamed(places["test"], {wnid: test[wnid] for wnid in train}, reading),
    )


def _without_boxes(found: Files) -> Files:
    return {wnid: [f for f in files if not f.endswith("_boxes.txt")] for wnid, files in found.items()}


def _annotated(place: Path) -> Files:
    """Return the validation images by class, as val_annotations.txt says."""
    file = place / "val_annotations.txt"
    if not file.is_file():
        raise DataError(f"{file}: no such file, and {place / 'images'} has the images of all classes; {EXPECTED}")
    known: dict[str, str] = {}
    for i, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines()):
        image, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0].strip()
        if not line.strip():
            continue
        if not wnid:
            raise DataError(f"{file}, line {i + 1}: {line[:60]!r}; expected <file>, tab, <synset>, tab, a box")
        known[image] = wnid
    names = sorted(p.name for p in (place / "images").iterdir() if not p.name.startswith("."))
    if unknown := [name for name in names if name not in known]:
        raise DataError(f"{file}: {len(known):,} labels, and none for {shown(unknown)} in {place / 'images'}")
    if missing := sorted(known.keys() - set(names)):
        raise DataError(f"{place / 'images'}: has no {shown(missing)}, which {file.name} names")
    found: Files = {wnid: [] for wnid in sorted(set(known.values()))}
    for name in names:
        found[known[name]].append(f"images/{name}")
    return found


def _other_wnids(file: Path, train: Mapping[str, object]) -> list[str]:
    if not file.is_file():
        return []
    listed = set(file.read_text(encoding="utf-8", errors="replace").split())
    missing, more = sorted(listed - train.keys()), sorted(train.keys() - listed)
    return [
        *([f"{file}: names {shown(missing)}, for which train/ has no folder"] if missing else []),
        *([f"{file}: does not name {shown(more)}, for which train/ has a folder"] if more else []),
    ]
