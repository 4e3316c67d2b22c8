"""Tiny-ImageNet as its archive unpacks, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import imagenet_writers as writers
import pytest
from imagenet_writers import WNIDS

from hedgerow.data import SOURCES, Raw, StreamedSplit
from hedgerow.errors import DataError

SORTED = tuple(sorted(WNIDS))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return writers.write_tiny_imagenet(tmp_path / "tiny-imagenet-200")


def load(root: Path, **options: Any) -> Raw:
    return SOURCES["tiny-imagenet"](path=root, **options)


def test_images_and_labels(root: Path) -> None:
    raw = load(root)
    assert raw.classes == ("tench", "tabby", "mushroom")  # in the order of the synsets, not of wnids.txt
    assert isinstance(raw.train, StreamedSplit)
    names = [f"{wnid}_{i}.JPEG" for wnid in SORTED for i in range(4)]
    assert [Path(path).name for path in raw.train.paths()] == names
    assert raw.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    expected = sorted((SORTED.index(WNIDS[i % 3]), f"val_{i}.JPEG") for i in range(6))
    assert raw.test.labels.tolist() == [label for label, _ in expected]
    images = raw.test.resident().images
    assert images.shape == (6, 3, 64, 64)
    assert all(writers.shows(image, name) for image, (_, name) in zip(images, expected, strict=True))


@pytest.mark.parametrize("inner", ["images", ""])
def test_validation_images_sorted_into_class_folders(root: Path, inner: str) -> None:
    expected = load(root).test.resident()
    for i in range(6):
        place = root / "val" / WNIDS[i % 3] / inner
        place.mkdir(parents=True, exist_ok=True)
        (root / "val" / "images" / f"val_{i}.JPEG").rename(place / f"val_{i}.JPEG")
    (root / "val" / "images").rmdir()
    found = load(root).test
    assert found.labels.tolist() == expected.labels.tolist()
    assert (found.resident().images == expected.images).all()


def test_without_the_lists_the_folders_tell(root: Path) -> None:
    (root / "wnids.txt").unlink()
    (root / "words.txt").unlink()
    assert load(root).classes == SORTED


def test_images_are_scaled_on_request(root: Path) -> None:
    assert load(root, image_size=16).test.pixels().shape == (6, 3, 16, 16)


def test_annotations_are_needed_and_complete(root: Path) -> None:
    file = root / "val" / "val_annotations.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[1:]))
    with pytest.raises(DataError, match=r"val_annotations.txt: 5 labels, and none for val_0.JPEG in .*val/images"):
        load(root)
    file.write_text("\n".join([*lines, "val_9.JPEG\tn01440764\t1\t2\t3\t4"]))
    with pytest.raises(DataError, match=r"val/images: has no val_9.JPEG, which val_annotations.txt names"):
        load(root)
    file.write_text("\n".join([*lines[:2], "val_2.JPEG n01440764"]))
    with pytest.raises(
        DataError, match=r"val_annotations.txt, line 3: 'val_2.JPEG n01440764'; expected <file>, tab"
    ):
        load(root)
    file.unlink()
    with pytest.raises(DataError, match=r"val_annotations.txt: no such file, and .*has the images of all classes"):
        load(root)


def test_classes_that_differ_are_named_together(root: Path) -> None:
    (root / "train" / WNIDS[0]).rename(root / "train" / "n00000001")
    with pytest.raises(DataError) as caught:
        load(root)
    text = str(caught.value)
    assert "val: has no image of class n00000001" in text
    assert f"train: has no image of class {WNIDS[0]}" in text
    assert f"wnids.txt: names {WNIDS[0]}, for which train/ has no folder" in text
    assert "wnids.txt: does not name n00000001, for which train/ has a folder" in text


def test_other_layouts_are_refused(root: Path) -> None:
    shutil.rmtree(root / "val")
    with pytest.raises(DataError, match=r"val: no such folder; expected wnids.txt, train/<synset>/images"):
        load(root)
