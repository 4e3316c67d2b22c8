from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from dataset_writers import (
    cifar_records,
    pack,
    py2_pickle,
    py3_pickle,
    shrink,
    write_cifar_binary,
    write_cifar_python,
)

from hedgerow.data import SOURCES, load_dataset
from hedgerow.data.sources import cifar10, cifar100
from hedgerow.errors import DataError

MODULES = {"cifar10": cifar10, "cifar100": cifar100}
WRITERS = {"python": write_cifar_python, "binary": write_cifar_binary}
FULL = {name: module.LAYOUT for name, module in MODULES.items()}


@pytest.fixture(params=["cifar10", "cifar100"])
def name(request, monkeypatch):
    """The name of a source whose archive has few records."""
    module = MODULES[request.param]
    monkeypatch.setattr(module, "LAYOUT", shrink(module.LAYOUT))
    return request.param


def check(name, path):
    raw = SOURCES[name](path=path)
    records = cifar_records(MODULES[name].LAYOUT)
    *train, test = records.values()
    for split, parts in ((raw.train, train), (raw.test, [test])):
        assert np.array_equal(split.images, np.concatenate([p[0] for p in parts]).reshape(-1, 3, 32, 32))
        assert split.labels.tolist() == np.concatenate([p[1] for p in parts]).tolist()
    assert raw.classes == tuple(f"class_{i}" for i in range(len(raw.classes)))
    assert len(raw.classes) == MODULES[name].LAYOUT.classes
    return raw


@pytest.mark.parametrize("form", ["python", "binary"])
@pytest.mark.parametrize("kind", ["folder", "parent", "archive"])
def test_reads_every_form(name, form, kind, tmp_path):
    layout = MODULES[name].LAYOUT
    folder = tmp_path / layout.folders[form]
    WRITERS[form](folder, layout)
    path = {"folder": folder, "parent": tmp_path}.get(kind) or pack(folder, tmp_path / "x.tar.gz")
    if kind == "archive":
        shutil.rmtree(folder)
    assert check(name, path).label == layout.title


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_pickles_of_this_python(name, protocol, tmp_path):
    write_cifar_python(tmp_path / "any", MODULES[name].LAYOUT, py3_pickle(protocol))
    check(name, tmp_path / "any")


def test_load_dataset(name, tmp_path):
    layout = MODULES[name].LAYOUT
    write_cifar_python(tmp_path / layout.folders["python"], layout)
    if name == "cifar10":
        d = load_dataset(name, path=str(tmp_path), validation=20)
        assert (len(d.train), len(d.validation), len(d.test)) == (80, 20, 10)
        assert d.image_size == (32, 32)
    else:  # one image for each class: none can be spared
        with pytest.raises(DataError, match="leave 1 of every class"):
            load_dataset(name, path=str(tmp_path), validation=20)


def test_real_sizes_are_in_the_messages(tmp_path):
    (tmp_path / "test_batch.bin").write_bytes(b"x")
    with pytest.raises(DataError, match=r"data_batch_1.bin: no such file; expected 10,000 records of 3,073 bytes"):
        load_dataset("cifar10", path=tmp_path)
    (tmp_path / "train.bin").write_bytes(bytes(3074))
    with pytest.raises(DataError, match=r"train.bin: has 3,074 bytes; expected 50,000 records of 3,074 bytes"):
        load_dataset("cifar100", path=tmp_path)
    assert FULL["cifar10"].expected("python", "test") == (
        "expected a pickled dict with b'data', uint8 [10000, 3072], and b'labels', "
        "10,000 whole numbers from 0 to 9"
    )


@pytest.mark.parametrize("form", ["python", "binary"])
def test_each_missing_file_is_named(name, form, tmp_path):
    layout = MODULES[name].LAYOUT
    folder = tmp_path / layout.folders[form]
    WRITERS[form](folder, layout)
    for file in sorted(folder.iterdir()):
        held = file.read_bytes()
        file.unlink()
        with pytest.raises(DataError, match=f"{file.name}: no such file; expected"):
            SOURCES[name](path=tmp_path)
        file.write_bytes(held)


@pytest.mark.parametrize("form", ["python", "binary"])
def test_each_file_cut_short_is_named(name, form, tmp_path):
    layout = MODULES[name].LAYOUT
    folder = tmp_path / layout.folders[form]
    WRITERS[form](folder, layout)
    for file in sorted(folder.iterdir()):
        held = file.read_bytes()
        file.write_bytes(held[: len(held) // 2])
        with pytest.raises(DataError, match=f"{file.name}: .*; expected"):
            SOURCES[name](path=tmp_path)
        file.write_bytes(held)


def test_label_outside_the_classes(name, tmp_path):
    layout = MODULES[name].LAYOUT
    folder = tmp_path / layout.folders["binary"]
    write_cifar_binary(folder, layout)
    file = folder / f"{layout.test}.bin"
    content = bytearray(file.read_bytes())
    content[3 * (3072 + layout.label_bytes) + layout.label_bytes - 1] = 200
    file.write_bytes(content)
    with pytest.raises(DataError, match=f"{file.name}: label 200 at position 3, and {layout.classes} classes"):
        SOURCES[name](path=tmp_path)


DATA = np.zeros((10, 3072), np.uint8)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({}, "b'data' is NoneType"),
        ({b"data": DATA}, "b'labels' is not 10 whole numbers"),
        ({b"data": DATA[:9], b"labels": [0] * 10}, r"b'data' is uint8 \[9, 3072\]"),
        ({b"data": DATA.astype("i2"), b"labels": [0] * 10}, r"b'data' is int16"),
        ({b"data": DATA, b"labels": [0] * 9}, "b'labels' is not"),
        ({b"data": DATA, b"labels": [b"cat"] * 10}, "b'labels' is not"),
        ({b"data": DATA, b"labels": [10] * 10}, "label 10 at position 0"),
        ([1, 2], "holds a list, not a dict"),
    ],
)
def test_wrong_content_of_a_pickle(held, message, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "LAYOUT", shrink(FULL["cifar10"]))
    write_cifar_python(tmp_path / "any", cifar10.LAYOUT)
    (tmp_path / "any" / "test_batch").write_bytes(py2_pickle(held))
    with pytest.raises(DataError, match=f"test_batch: .*{message}"):
        SOURCES["cifar10"](path=tmp_path / "any")


def test_wrong_number_of_class_names(name, tmp_path):
    layout = MODULES[name].LAYOUT
    write_cifar_binary(tmp_path / "any", layout)
    (tmp_path / "any" / layout.names["binary"]).write_text("cat dog")
    with pytest.raises(DataError, match=f"holds 2 class names; expected the {layout.classes}"):
        SOURCES[name](path=tmp_path / "any")


def test_nothing_there(name, tmp_path):
    folders = MODULES[name].LAYOUT.folders.values()
    with pytest.raises(DataError, match=".*".join(["no such file or folder", *folders])):
        SOURCES[name](path=tmp_path / "none")
    with pytest.raises(DataError, match="holds no"):
        SOURCES[name](path=tmp_path)


def test_broken_or_foreign_archive(name, tmp_path):
    layout = MODULES[name].LAYOUT
    write_cifar_binary(tmp_path / "any", layout)
    archive = pack(tmp_path / "any", tmp_path / "x.tar.gz")
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"x.tar.gz: not a whole .tar.gz"):
        SOURCES[name](path=archive)
    archive.write_bytes(b"something else")
    with pytest.raises(DataError, match=r"x.tar.gz: not a whole .tar.gz"):
        SOURCES[name](path=archive)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no file of CIFAR"):
        SOURCES[name](path=pack(tmp_path / "empty", archive))


def test_images_can_be_changed_in_place(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "LAYOUT", shrink(FULL["cifar10"]))
    write_cifar_python(tmp_path / "any", cifar10.LAYOUT)
    images = SOURCES["cifar10"](path=tmp_path / "any").test.images
    assert torch.equal(images.fill_(1), torch.ones_like(images))
