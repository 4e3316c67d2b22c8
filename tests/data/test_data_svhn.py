from __future__ import annotations

import numpy as np
import pytest
from scipy.io import savemat

from hedgerow.data import SOURCES, load_dataset
from hedgerow.errors import DataError


def content(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 10 + 1).astype(np.uint8)
    return {"X": rng.integers(0, 256, (32, 32, 3, n), np.uint8), "y": labels[:, None]}


@pytest.fixture
def files(tmp_path):
    train, test = content(40), content(20, 1)
    savemat(tmp_path / "train_32x32.mat", train, do_compression=True)
    savemat(tmp_path / "test_32x32.mat", test)
    return tmp_path, train, test


def test_reads_both_files(files):
    path, train, test = files
    raw = SOURCES["svhn"](path=path)
    for split, held in ((raw.train, train), (raw.test, test)):
        assert split.labels.tolist() == [int(v) % 10 for v in held["y"].ravel()]
        for i in (0, 7, 19):
            assert np.array_equal(split.images[i].permute(1, 2, 0), held["X"][..., i])


def test_load_dataset(files):
    d = load_dataset("svhn", path=files[0], validation=10)
    assert (d.label, d.classes[0], d.image_size) == ("SVHN", "0", (32, 32))
    assert (len(d.train), len(d.validation), len(d.test)) == (30, 10, 20)


@pytest.mark.parametrize("name", ["train_32x32.mat", "test_32x32.mat"])
def test_missing_and_broken_files_are_named(files, name):
    file = files[0] / name
    held = file.read_bytes()
    for broken in (held[:1000], b"", b"not matlab", b"MATLAB 7.3 MAT-file" + bytes(105) + b"\x00\x02IM"):
        file.write_bytes(broken)
        with pytest.raises(DataError, match=rf"{name}: (cannot be read|has no).*; expected a MATLAB 5 file"):
            SOURCES["svhn"](path=files[0])
    file.unlink()
    with pytest.raises(DataError, match=f"{name}: no such file; expected a MATLAB 5 file"):
        SOURCES["svhn"](path=files[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": np.zeros((32, 32, 3, 20))}, r"X is float64 \[32, 32, 3, 20\]"),
        ({"X": np.zeros((28, 28, 3, 20), np.uint8)}, r"X is uint8 \[28, 28, 3, 20\]"),
        ({"y": np.ones((19, 1), np.uint8)}, "20 images and 19 labels"),
        ({"y": np.full((20, 1), 11, np.uint8)}, "label 11 at position 0"),
        ({"y": np.zeros((20, 1), np.uint8)}, "label 0 at position 0"),
    ],
)
def test_wrong_content(files, changes, message):
    savemat(files[0] / "test_32x32.mat", {**content(20), **changes})
    with pytest.raises(DataError, match=f"test_32x32.mat: {message}"):
        SOURCES["svhn"](path=files[0])


def test_missing_variables(files):
    savemat(files[0] / "test_32x32.mat", {"Z": np.zeros(3)})
    with pytest.raises(DataError, match="has no X and no y"):
        SOURCES["svhn"](path=files[0])
