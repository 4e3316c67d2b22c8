"""CIFAR-10 (Krizhevsky 2009), from the archive for Python or the binary one."""

from __future__ import annotations

from pathlib import Path

from hedgerow.data.cifar import Layout, read_cifar
from hedgerow.data.sources import SOURCES, Raw

LAYOUT = Layout(
    title="CIFAR-10",
    classes=10,
    folders={"python": "cifar-10-batches-py", "binary": "cifar-10-batches-bin"},
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test="test_batch",
    records={"train": 10_000, "test": 10_000},
    label_key="labels",
    label_bytes=1,
    names={"python": "batches.meta", "binary": "batches.meta.txt"},
    names_key="label_names",
)


@SOURCES.register("cifar10")
def cifar10(*, path: Path) -> Raw:
    """CIFAR-10, 60,000 colour 32x32 images: the downloaded .tar.gz or its folder, Python or binary form.

    Raises `DataError` naming the file that is missing or broken, and what was expected of it; a pickle that
    asks for anything but arrays, dicts, lists, numbers and bytes is refused and runs nothing.
    """
    classes, train, test = read_cifar(path, LAYOUT)
    return Raw(label=LAYOUT.title, classes=classes, train=train, test=test)
