"""Small files in the exact formats of the published archives."""

from __future__ import annotations

import dataclasses
import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hedgerow.data.cifar import Layout

TRAIN, TEST = 20, 10


def shrink(layout: Layout) -> Layout:
    """The same archive with few records in each file."""
    train = 100 if layout.classes == 100 else TRAIN
    return dataclasses.replace(layout, records={"train": train, "test": TEST})


def _py2(value: Any) -> bytes:
    """One value as Python 2 pickled it (protocol 2): strings are BINSTRING, arrays numpy.core.multiarray."""
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_py2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_py2(k) + _py2(v) for k, v in value.items()) + b"u"
    code = value.dtype.str[1:].encode()
    dtype = b"cnumpy\ndtype\n" + _py2(code) + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + _py2(value.dtype.str[:1].encode()) + b"NNN" + _py2(-1) + _py2(-1) + b"K\x00tb"
    fortran = value.flags.f_contiguous and not value.flags.c_contiguous
    shape = b"(" + b"".join(map(_py2, value.shape)) + b"t"
    state = b"(K\x01" + shape + dtype + (b"\x88" if fortran else b"\x89")
    state += _py2(value.tobytes("F" if fortran else "C")) + b"t"
    return b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R" + state + b"b"


def py2_pickle(value: Any) -> bytes:
    return b"\x80\x02" + _py2(value) + b"."


def cifar_records(layout: Layout, seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pixels `[N, 3072]` and labels `[N]` for each image file of the Python form."""
    rng = np.random.default_rng(seed)
    records = {}
    for name, part in layout.files("python").items():
        n = layout.records[part]
        labels = rng.permutation(np.arange(n) % layout.classes)
        records[name] = (rng.integers(0, 256, (n, 3072), np.uint8), labels)
    return records


def write_cifar_python(folder: Path, layout: Layout, dump: Any = py2_pickle) -> dict[str, Any]:
    folder.mkdir(parents=True)
    records = cifar_records(layout)
    for name, (data, labels) in records.items():
        held = {b"batch_label": b"some", layout.label_key.encode(): labels.tolist(), b"data": data}
        if layout.classes == 100:
            held[b"coarse_labels"] = [0] * len(labels)
        (folder / name).write_bytes(dump(held))
    names = [f"class_{i}".encode() for i in range(layout.classes)]
    (folder / layout.names["python"]).write_bytes(dump({layout.names_key.encode(): names, b"num_vis": 3072}))
    return records


def write_cifar_binary(folder: Path, layout: Layout) -> dict[str, Any]:
    folder.mkdir(parents=True)
    records = cifar_records(layout)
    for name, (data, labels) in records.items():
        columns = [np.full((len(data), layout.label_bytes - 1), 7), labels[:, None], data]
        (folder / f"{name}.bin").write_bytes(np.concatenate(columns, 1).astype(np.uint8).tobytes())
    names = "\n".join(f"class_{i}" for i in range(layout.classes))
    (folder / layout.names["binary"]).write_text(names + "\n\n")
    return records


def pack(folder: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return archive


def py3_pickle(protocol: int) -> Any:
    return lambda value: pickle.dumps(value, protocol=protocol)


def image_bytes(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_image_folder(root: Path, *, classes: tuple[str, ...] = ("cat", "dog"), n: int = 4) -> dict[str, Any]:
    """PNG images of 10 x 8 pixels (width x height); returns the pixels by `part/class/file`."""
    rng = np.random.default_rng(0)
    written = {}
    for part in ("train", "test"):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (8, 10, 3), np.uint8)
                (root / part / name / f"{i}.png").write_bytes(image_bytes(pixels))
                written[f"{part}/{name}/{i}.png"] = pixels
    return written
