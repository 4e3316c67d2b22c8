"""ImageNet, ILSVRC 2012 (Russakovsky et al., 1409.0575), streamed from its JPEG files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from hedgerow.data.listing import Files, class_files, class_names, class_problems, shown, streamed
from hedgerow.data.sources import SOURCES, Raw
from hedgerow.data.streamed import Reading
from hedgerow.errors import DataError

EXPECTED = "expected train/<synset>/<file>.JPEG, and val/<synset>/<file>.JPEG or a flat val/ with a file of labels"
EVALUATED = 224 / 256  # the square that evaluation sees, of the shorter side
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
KNOWN = (GROUND_TRUTH, "imagenet_2012_validation_synset_labels.txt", "LOC_val_solution.csv", "val.txt")
PLACES = ("", "val", "data", "ILSVRC2012_devkit_t12/data")
IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
# Lines of the published lists: a synset, the devkit's number, a file with its synset, or with its number from 0.
LINE = re.compile(
    r"(?:ILSVRC2012_val_(?P<image>\d{8})(?:\.JPEG)?[\s,]+)?(?:(?P<number>\d+)|(?:\d+\s+)?(?P<wnid>n\d{8})\b.*)\s*"
)


@SOURCES.register("imagenet")
def imagenet(
    *,
    path: Path,
    image_size: int = 224,
    workers: int | None = None,
    memory: float = 8.0,
    labels: str | Path | None = None,
) -> Raw:
    """ImageNet (ILSVRC 2012), streamed: train/<synset>/*.JPEG, and val/ in class folders or flat with its labels.

    Its validation images are the test split. A flat `val/` is labelled by the file `labels`, or by the first of
    these found beside it: the devkit's ILSVRC2012_validation_ground_truth.txt with meta.mat,
    imagenet_2012_validation_synset_labels.txt, LOC_val_solution.csv, val.txt. Labels number the sorted synsets.
    `image_size`, `workers` and `memory` as in `Reading`; evaluation sees the middle 7/8 of the shorter side.

    Raises `DataError` for missing, empty or differing class folders, for a flat folder without labels, with labels
    of another form, or of classes that `train/` lacks.
    """
    reading = Reading(image_size=image_size, share=EVALUATED, workers=workers, memory=memory)
    places = {"train": path / "train", "test": path / "val"}
    for place in places.values():
        if not place.is_dir():
            raise DataError(f"{place}: no such folder; {EXPECTED}")
    train = class_files(places["train"], EXPECTED)
    test = class_files(places["test"], EXPECTED)
    flat = _images_in(places["test"])
    if test and (flat or labels is not None):
        second = f"labels = {labels}" if labels is not None else f"{len(flat):,} images beside them"
        raise DataError(
            f"{places['test']}: has class folders, which label its images, and {second}: leave one out"
        )
    what = "class folder" if test else "image of class"
    test = test or _flat(path, places["test"], flat, list(train), labels)
    if problems := class_problems({p: (places[p], ls) for p, ls in (("train", train), ("test", test))}, what=what):
        raise DataError("\n".join([f"{path}: {EXPECTED}, with the same classes", *(f"  - {p}" for p in problems)]))
    return Raw(
        label="ImageNet",
        classes=class_names(train, path),
        train=streamed(places["train"], train, reading),
        test=streamed(places["test"], test, reading),
    )


def _images_in(place: Path) -> list[str]:
    return sorted(p.name for p in place.iterdir() if p.suffix.lower() in (".jpeg", ".jpg", ".png"))


def _flat(path: Path, place: Path, names: list[str], classes: list[str], given: str | Path | None) -> Files:
    """Return the images `names` of a flat validation folder by class, of all `classes` that have any."""
    if odd := [name for name in names if not IMAGE.fullmatch(name)]:
        raise DataError(f"{place}: {shown(odd)}: not named as published, ILSVRC2012_val_00000001.JPEG; {EXPECTED}")
    if not names:
        raise DataError(f"{place}: has no class folder and no image; {EXPECTED}")
    file = Path(given).expanduser() if given else _label_file(path, place)
    known = read_labels(file, classes)
    numbers = {name: int(name[-13:-5]) for name in names}
    if unknown := [name for name, number in numbers.items() if number not in known]:
        raise DataError(f"{file}: {len(known):,} labels, and none for {shown(unknown)} in {place}")
    wanted: Files = {wnid: [] for wnid in classes}
    if foreign := [name for name, number in numbers.items() if known[number] not in wanted]:
        raise DataError(
            f"{place}: {len(foreign):,} of {len(names):,} images are of classes that train/ has no folder for: "
            f"{shown([f'{name} is {known[numbers[name]]}' for name in foreign])}"
        )
    for name, number in numbers.items():
        wanted[known[number]].append(name)
    return {wnid: listed for wnid, listed in wanted.items() if listed}


def _label_file(path: Path, place: Path) -> Path:
    for name in KNOWN:
        for below in PLACES:
            if (file := path / below / name).is_file():
                return file
    raise DataError(
        f"{place}: a flat folder, and no file says which class its images are of: put {', '.join(KNOWN[:-1])} or "
        f"{KNOWN[-1]} into {path}, name one by `labels`, or sort the images into class folders"
    )


def read_labels(file: Path, classes: list[str]) -> Mapping[int, str]:
    """Return the synset of each validation image by its number, from 1; `classes` are the sorted synsets.

    A line without an image is of the image with its own number. A number alone is the devkit's, which the meta.mat
    beside it explains; one behind an image counts the sorted synsets from 0. Raises `DataError` naming the line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error}); expected one of {', '.join(KNOWN)}") from error
    found = {image: (wnid, number, named) for image, wnid, number, named in _parsed(file, lines)}
    plain = {number for wnid, number, named in found.values() if wnid is None and not named}
    behind = [number for wnid, number, named in found.values() if wnid is None and named]
    devkit = _devkit(file.with_name("meta.mat")) if plain else {}
    if missing := sorted(plain - devkit.keys()):
        raise DataError(f"{file}: class {missing[0]} is not in {file.with_name('meta.mat')}")
    if behind and max(behind) + 1 != len(classes):
        raise DataError(
            f"{file}: numbers classes up to {max(behind)}, and train/ has {len(classes)} class folders"
        )
    return {
        image: wnid or (classes[number] if named else devkit[number])
        for image, (wnid, number, named) in found.items()
    }


def _parsed(file: Path, lines: list[str]) -> Iterator[tuple[int, str | None, int, bool]]:
    """Yield the image, its synset or None, its number, and whether the line names the image."""
    for i, line in enumerate(lines):
        if not line.strip() or (i == 0 and line.startswith("ImageId,")):
            continue
        match = LINE.fullmatch(line.strip())
        if match is None:
            raise DataError(
                f"{file}, line {i + 1}: {line[:60]!r} is no label; expected the lines of {', '.join(KNOWN)}"
            )
        image, number, wnid = match["image"], match["number"], match["wnid"]
        yield int(image) if image else i + 1, wnid, int(number or -1), bool(image)


def _devkit(meta: Path) -> dict[int, str]:
    from scipy.io import loadmat

    expected = f"expected the devkit's, which gives the synset of each number in {GROUND_TRUTH}"
    if not meta.is_file():
        raise DataError(f"{meta}: no such file; {expected}")
    try:
        synsets = loadmat(str(meta), squeeze_me=True, variable_names=["synsets"])["synsets"]
        pairs = zip(np.atleast_1d(synsets["ILSVRC2012_ID"]), np.atleast_1d(synsets["WNID"]), strict=True)
        return {int(number): str(wnid) for number, wnid in pairs}
    except Exception as error:  # the reader fails in as many ways as there are broken files
        raise DataError(f"{meta}: cannot be read ({type(error).__name__}: {error}); {expected}") from error
