"""The files of CIFAR-10 and CIFAR-100: a folder or a .tar.gz, each for Python (pickles) or binary."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch

from hedgerow.data.split import Split, check_labels, join
from hedgerow.data.unpickle import read_pickled_dict
from hedgerow.errors import DataError

Form = Literal["python", "binary"]
Part = Literal["train", "test"]
FORMS: tuple[Form, Form] = ("python", "binary")
PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """Which files a CIFAR archive has and what is in them; mappings go by form or by part.

    A binary record is `label_bytes` labels (the last one counts) and 3,072 pixels.
    """

    title: str
    classes: int
    folders: Mapping[Form, str]
    train: tuple[str, ...]
    test: str
    records: Mapping[Part, int]
    label_key: str
    label_bytes: int
    names: Mapping[Form, str]
    names_key: str

    def files(self, form: Form) -> dict[str, Part]:
        """Return the image files of one form, in order, with the part they belong to."""
        suffix = ".bin" if form == "binary" else ""
        parts: dict[str, Part] = {name + suffix: "train" for name in self.train}
        return {**parts, self.test + suffix: "test"}

    def expected(self, form: Form, part: Part) -> str:
        """Return what one image file of this form must hold, in words."""
        n, last = f"{self.records[part]:,}", self.classes - 1
        if form == "binary":
            size = self.label_bytes + PIXELS
            return f"expected {n} records of {size:,} bytes (label {self.label_bytes}, pixels {PIXELS:,})"
        return (
            f"expected a pickled dict with b'data', uint8 [{self.records[part]}, {PIXELS}], and "
            f"b'{self.label_key}', {n} whole numbers from 0 to {last}"
        )


Reader = Callable[[str], bytes | None]


def read_cifar(path: Path, layout: Layout) -> tuple[tuple[str, ...], Split, Split]:
    """Return class names, training and test images `[N, 3, 32, 32]` of the archive or folder at `path`.

    `path` is the .tar.gz, the folder in it, or the folder around that. Raises `DataError` naming the file
    that is missing or broken and the format expected of it.
    """
    place, form, reader = _open(path, layout)
    parts: dict[Part, list[Split]] = {"train": [], "test": []}
    for name, part in layout.files(form).items():
        where, expected = f"{place}/{name}", layout.expected(form, part)
        content = reader(name)
        if content is None:
            raise DataError(f"{where}: no such file; {expected}")
        split = _READERS[form](content, where, layout, part)
        check_labels(split.labels, layout.classes, where)
        parts[part].append(split)
    return _class_names(reader, form, place, layout), join(parts["train"]), join(parts["test"])


def _open(path: Path, layout: Layout) -> tuple[Path, Form, Reader]:
    if path.is_file():
        return _open_archive(path, layout)
    for form in FORMS:
        for folder in (path, path / layout.folders[form]):
            # Any one file tells the form; a missing one among them is then named by itself.
            if any((folder / name).is_file() for name in layout.files(form)):
                return folder, form, lambda n, f=folder: (f / n).read_bytes() if (f / n).is_file() else None
    files = " or ".join(f"{layout.folders[form]}/ ({', '.join(layout.files(form))})" for form in FORMS)
    missing = "holds no" if path.is_dir() else "no such file or folder; expected"
    raise DataError(f"{path}: {missing} {layout.title} archive (.tar.gz) or folder {files}")


def _open_archive(path: Path, layout: Layout) -> tuple[Path, Form, Reader]:
    wanted = {name for form in FORMS for name in (*layout.files(form), layout.names[form])}
    held: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:  # read into memory: nothing is unpacked to a path the archive chooses
                name = PurePosixPath(member.name).name
                if member.isfile() and name in wanted and (file := archive.extractfile(member)):
                    held[name] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: not a whole .tar.gz ({error}); expected the {layout.title} archive as it is published"
        ) from error
    for form in FORMS:
        if any(name in held for name in layout.files(form)):
            return path, form, held.get
    names = " or ".join(", ".join(layout.files(form)) for form in FORMS)
    raise DataError(f"{path}: holds no file of {layout.title}; expected {names}")


def _read_binary(content: bytes, where: str, layout: Layout, part: Part) -> Split:
    record = layout.label_bytes + PIXELS
    if len(content) != layout.records[part] * record:
        raise DataError(f"{where}: has {len(content):,} bytes; {layout.expected('binary', part)}")
    table = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, record)
    labels = table[:, layout.label_bytes - 1].to(torch.int64)
    return Split(table[:, layout.label_bytes :].reshape(-1, 3, 32, 32), labels)


def _read_python(content: bytes, where: str, layout: Layout, part: Part) -> Split:
    expected = layout.expected("python", part)
    held = read_pickled_dict(content, where, expected)
    data, labels = held.get("data"), held.get(layout.label_key)
    n = layout.records[part]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != (n, PIXELS):
        found = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{where}: b'data' is {found}; {expected}")
    if isinstance(labels, list) and all(type(v) is int and abs(v) < 2**31 for v in labels):
        labels = np.array(labels, np.int64)
    if not isinstance(labels, np.ndarray) or labels.shape != (n,):
        raise DataError(f"{where}: b'{layout.label_key}' is not {n:,} whole numbers; {expected}")
    pixels = torch.from_numpy(data.reshape(n, 3, 32, 32).copy())
    return Split(pixels, torch.from_numpy(labels.astype(np.int64)))


_READERS = {"python": _read_python, "binary": _read_binary}


def _class_names(reader: Reader, form: Form, place: Path, layout: Layout) -> tuple[str, ...]:
    where = f"{place}/{layout.names[form]}"
    expected = f"expected the {layout.classes} class names of {layout.title}"
    content = reader(layout.names[form])
    if content is None:
        raise DataError(f"{where}: no such file; {expected}")
    found: object = content.split()
    if form == "python":
        expected += f" as a pickled dict with b'{layout.names_key}', a list of bytes"
        found = read_pickled_dict(content, where, expected).get(layout.names_key)
    listed = found if isinstance(found, list) else []
    names = tuple(n.decode("utf-8", "replace") if isinstance(n, bytes) else str(n) for n in listed)
    if len(names) != layout.classes:
        raise DataError(f"{where}: holds {len(names)} class names; {expected}")
    return names
