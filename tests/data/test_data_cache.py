from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from dataset_writers import image_bytes, write_image_folder

from hedgerow.data import SOURCES
from hedgerow.data.cache import cached_tensors
from hedgerow.data.sources import folder
from hedgerow.files import cache_folder


@pytest.fixture
def root(tmp_path):
    write_image_folder(tmp_path / "pets")
    return tmp_path / "pets"


@pytest.fixture
def decoded(monkeypatch):
    """How many times a folder was decoded."""
    calls = []

    def counting(*arguments, **options):
        calls.append(arguments)
        return original(*arguments, **options)

    original = folder.decode_files
    monkeypatch.setattr(folder, "decode_files", counting)
    return calls


def load(root, **options):
    return SOURCES["folder"](path=root, **options)


def test_second_time_decodes_nothing_and_is_the_same(root, decoded, cache, monkeypatch):
    first, second = load(root), load(root)
    assert len(decoded) == 1
    for a, b in ((first.train, second.train), (first.test, second.test)):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.chdir(root.parent)
    load(type(root)("pets"))  # the same folder by a relative path
    assert len(decoded) == 1


def test_options_have_files_of_their_own(root, decoded, cache):
    for _ in range(2):
        load(root)
        load(root, image_size=4)
        load(root, grey=True)
    assert len(decoded) == 3
    assert len(list(cache.iterdir())) == 3


def rewrite(root):
    pixels = np.full((8, 10, 3), 77, np.uint8)
    (root / "train" / "cat" / "0.png").write_bytes(image_bytes(pixels))


def add(root):
    (root / "test" / "dog" / "new.png").write_bytes(image_bytes(np.zeros((8, 10, 3), np.uint8)))


def remove(root):
    (root / "test" / "dog" / "0.png").unlink()


def rename(root):
    (root / "test" / "dog" / "0.png").rename(root / "test" / "dog" / "9.png")


def touch(root):
    os.utime(root / "test" / "dog" / "0.png", ns=(1, 1))


def use_val(root):
    (root / "test").rename(root / "val")


@pytest.mark.parametrize("change", [rewrite, add, remove, rename, touch, use_val])
def test_a_change_replaces_the_file(root, decoded, cache, change):
    load(root)
    change(root)
    raw = load(root)
    load(root)
    assert len(decoded) == 2
    assert len(list(cache.iterdir())) == 1
    if change is rewrite:
        assert bool((raw.train.images[0] == 77).all())


@pytest.mark.parametrize("damage", [b"", b"something else", None])
def test_a_broken_file_is_made_again_in_silence(root, decoded, cache, damage, recwarn):
    expected = load(root).train.images
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    assert torch.equal(load(root).train.images, expected)
    assert torch.equal(load(root).train.images, expected)
    assert len(decoded) == 2
    assert not recwarn.list


def test_an_unwritable_cache_is_a_warning(root, decoded, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("HEDGEROW_CACHE", str(tmp_path / "file" / "sub"))
    with pytest.warns(UserWarning, match="set HEDGEROW_CACHE"):
        assert len(load(root).train) == 8


def test_a_failed_build_leaves_nothing(cache):
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cached_tensors("a", [], fail)
    assert not list(cache.iterdir())


def test_where_the_cache_is(cache, monkeypatch):
    assert cache_folder() == cache
    monkeypatch.delenv("HEDGEROW_CACHE")
    assert cache_folder().parts[-2:] == (".cache", "hedgerow")
