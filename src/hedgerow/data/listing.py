"""Image files in one folder for each class: their names, their classes, and splits that stream them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from hedgerow.data.streamed import Reading, StreamedSplit, listed_files
from hedgerow.errors import DataError

CLUTTER = frozenset({"Thumbs.db", "desktop.ini"})
WORDS = ("words.txt", "LOC_synset_mapping.txt")  # how Tiny-ImageNet and ImageNet name their synsets
SHOWN = 5

Files = dict[str, list[str]]  # class -> its files, in order, with the folders below the place that was searched


def class_files(place: Path, expected: str, *, inner: str = "") -> Files:
    """Return the files of each class folder in `place`, sorted; taken from its folder `inner` where it has one.

    Hidden files and clutter are left out. Raises `DataError`, ending with `expected`, for a folder in a class
    folder and for a class folder without a file.
    """
    found: Files = {}
    nested: list[str] = []
    with os.scandir(place) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    for name in names:
        below = f"{name}/{inner}" if inner and (place / name / inner).is_dir() else name
        with os.scandir(place / below) as entries:
            seen = [e for e in entries if not e.name.startswith(".") and e.name not in CLUTTER]
        nested += [e.path for e in seen if e.is_dir()]
        found[name] = sorted(f"{below}/{e.name}" for e in seen if not e.is_dir())
    if nested:
        raise DataError(f"{nested[0]}: a folder inside a class folder ({len(nested)} such); {expected}")
    return found


def class_problems(
    found: Mapping[str, tuple[Path, Mapping[str, Sequence[object]]]], *, what: str = "class folder"
) -> list[str]:
    """Return what is wrong with the classes of `train` and `test`, each a `what`: empty, differing, under two."""
    (train_place, train), (test_place, test) = found["train"], found["test"]
    problems = [
        f"{place / name}: empty class folder" for place, ls in found.values() for name in ls if not ls[name]
    ]
    for place, names, others in ((test_place, test, train), (train_place, train, test)):
        if missing := sorted(others.keys() - names.keys()):
            problems.append(f"{place}: has no {what} {shown(missing)}")
    if len(train) < 2:
        problems.append(f"{train_place}: a classifier needs at least 2 class folders, found {len(train)}")
    return problems


def shown(names: Sequence[str]) -> str:
    """Return the first five names and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")


def streamed(place: Path, files: Mapping[str, Sequence[str]], reading: Reading) -> StreamedSplit:
    """Return a split of the files of each class, labelled in the order of the classes given."""
    names = [file for listed in files.values() for file in listed]
    counts = torch.tensor([len(listed) for listed in files.values()])
    labels = torch.arange(len(files)).repeat_interleave(counts)
    return StreamedSplit(str(place), listed_files(names), labels, reading)


def class_names(wnids: Iterable[str], path: Path) -> tuple[str, ...]:
    """Return the first word of each synset from the list of words in `path`; the synset itself where none is.

    A word that names two synsets (ImageNet has two of `crane`) is followed by the synset.
    """
    wnids = list(wnids)
    words: dict[str, str] = {}
    file = next((path / name for name in WORDS if (path / name).is_file()), None)
    if file is not None:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        matches = filter(None, (re.match(r"(n\d{8})\s+([^,]*[^,\s])", line) for line in lines))
        words = {match[1]: match[2] for match in matches}
    names = [words.get(wnid, wnid) for wnid in wnids]
    return tuple(f"{n} ({w})" if names.count(n) > 1 else n for n, w in zip(names, wnids, strict=True))
