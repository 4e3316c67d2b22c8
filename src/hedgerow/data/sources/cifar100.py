"""CIFAR-100 with its 100 fine classes (Krizhevsky 2009), from the archive for Python or the binary one."""

from __future__ import annotations

from pathlib import Path

from hedgerow.data.cifar import Layout, read_cifar
from hedgerow.data.sources import SOURCES, Raw

LAYOUT = Layout(
    title="CIFAR-100",
    classes=100,
    folders={"python": "cifar-100-python", "binary": "cifar-100-binary"},
    train=("train",),
    test="test",
    records={"train": 50_000, "test": 10_000},
    label_key="fine_labels",
    label_bytes=2,
    names={"python": "meta", "binary": "fine_label_names.txt"},
    names_key="fine_label_names",
)


@SOURCES.register("cifar100")
def cifar100(*, path: Path) -> Raw:
    """CIFAR-100, 60,000 colour 32x32 images: the downloaded .tar.gz or its folder, Python or binary form.

    Raises `DataError` naming the file that is missing or broken, and what was expected of it; a pickle that
    asks for anything but arrays, dicts, lists, numbers and bytes is refused and runs nothing.
    """
    classes, train, test = read_cifar(path, LAYOUT)
    return Raw(label=LAYOUT.title, classes=classes, train=train, test=test)
