"""ImageNet's layouts: training folders, and validation images in folders or flat with any published list."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagenet_writers as writers
import pytest
import torch
from imagenet_writers import VAL, WNIDS, val_name

from hedgerow.data import SOURCES, Raw, StreamedSplit, load_dataset
from hedgerow.errors import DataError

SORTED = tuple(sorted(WNIDS))


def load(root: Path, **options: Any) -> Raw:
    return SOURCES["imagenet"](path=root, **{"image_size": 32, "workers": 0, **options})


def with_list(name: str) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        (root / name).write_text(writers.label_lists()[name])
        return writers.write_flat_val(root)

    return write


def with_devkit(below: str) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        writers.write_devkit(root / below)
        return writers.write_flat_val(root)

    return write


LAYOUTS = {
    "folders": writers.write_val_folders,
    "devkit as unpacked": with_devkit("ILSVRC2012_devkit_t12/data"),
    "devkit's data": with_devkit("data"),
    "devkit's files": with_devkit(""),
    "synset labels": with_list("imagenet_2012_validation_synset_labels.txt"),
    "val.txt": with_list("val.txt"),
    "solution": with_list("LOC_val_solution.csv"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images_and_labels(tmp_path: Path, layout: str) -> None:
    raw = load(LAYOUTS[layout](writers.write_train(tmp_path)))
    assert raw.classes == SORTED
    assert (len(raw.train), len(raw.test)) == (9, len(VAL))
    expected = sorted((SORTED.index(wnid), val_name(number)) for number, wnid in VAL.items())
    assert raw.test.labels.tolist() == [label for label, _ in expected]
    images = raw.test.resident().images
    assert images.shape == (len(VAL), 3, 32, 32)
    assert all(writers.shows(image, name) for image, (_, name) in zip(images, expected, strict=True))


def test_training_images_and_their_labels(tmp_path: Path) -> None:
    raw = load(writers.write_val_folders(writers.write_train(tmp_path)))
    assert isinstance(raw.train, StreamedSplit)
    names = [f"{wnid}_{i}.JPEG" for wnid in SORTED for i in (17, 27, 7)]
    assert [Path(path).name for path in raw.train.paths()] == names
    assert raw.train.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    images = raw.train.pixels().mul(255).round().to(torch.uint8)
    assert all(writers.shows(image, name) for image, name in zip(images, names, strict=True))


def test_a_list_of_ones_own_is_named(tmp_path: Path) -> None:
    writers.write_flat_val(writers.write_train(tmp_path / "data"))
    own = tmp_path / "own.txt"
    own.write_text(writers.label_lists()["own.txt"])
    found = load(tmp_path / "data", labels=str(own)).test.labels.tolist()
    assert found == sorted(SORTED.index(wnid) for wnid in VAL.values())


def test_evaluation_sees_the_middle_of_the_shorter_side(tmp_path: Path) -> None:
    writers.write_val_folders(writers.write_train(tmp_path))
    file = tmp_path / "val" / SORTED[0] / val_name(9)
    writers.write_jpeg(file)
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (96, 64), (255, 255, 255))  # the square is 56 wide and 4 from the upper edge
    ImageDraw.Draw(picture).rectangle((21, 5, 74, 58), fill=(0, 0, 0))
    picture.save(file, "PNG")  # ImageNet too has a PNG that is called JPEG
    split = load(tmp_path).test
    where = [Path(path).name for path in split.paths()].index(file.name)
    image = split.pixels(torch.tensor([where]))[0]
    assert image[:, 2:-2, 2:-2].max() == 0
    assert image[:, 0].min() > 0.2
    assert image[:, :, -1].min() > 0.2


def test_words_name_the_classes(tmp_path: Path) -> None:
    writers.write_val_folders(writers.write_train(tmp_path))
    lines = {WNIDS[0]: "crane", WNIDS[1]: "crane, bird", WNIDS[2]: "Shih-Tzu, dog"}
    (tmp_path / "LOC_synset_mapping.txt").write_text("".join(f"{w} {words}\n" for w, words in lines.items()))
    assert load(tmp_path).classes == (f"crane ({WNIDS[1]})", f"crane ({WNIDS[0]})", "Shih-Tzu")


def test_load_dataset_splits_without_decoding(tmp_path: Path) -> None:
    root = writers.write_val_folders(writers.write_train(tmp_path))
    for file in root.rglob("*.JPEG"):
        file.write_bytes(b"never read")
    data = load_dataset("imagenet", path=root, image_size=32, validation=3, test_limit=3)
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 3, 3)
    assert (data.channels, data.image_size, data.label) == (3, (32, 32), "ImageNet")
    assert sorted(torch.cat([data.train.positions, data.validation.positions]).tolist()) == list(range(9))


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    return writers.write_flat_val(writers.write_train(tmp_path))


def labelled(root: Path, **lines: str) -> Path:
    (root / "val.txt").write_text("\n".join(lines.get(f"line{i}", f"{val_name(i)} {i % 3}") for i in VAL))
    return root


def test_a_flat_folder_needs_labels(flat: Path) -> None:
    with pytest.raises(DataError, match=r"val: a flat folder, and no file says .*LOC_val_solution.csv or val.txt"):
        load(flat)
    with pytest.raises(DataError, match=r"none.txt: cannot be read"):
        load(flat, labels=flat / "none.txt")


def test_a_ground_truth_needs_its_meta(flat: Path) -> None:
    writers.write_devkit(flat / "data")
    meta = flat / "data" / "meta.mat"
    content = meta.read_bytes()
    meta.write_bytes(content[:90])
    with pytest.raises(DataError, match=r"meta.mat: cannot be read .*expected the devkit's"):
        load(flat)
    meta.unlink()
    with pytest.raises(DataError, match=r"meta.mat: no such file; expected the devkit's"):
        load(flat)
    meta.write_bytes(content)
    (flat / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n17\n" * 3)
    with pytest.raises(DataError, match=r"class 17 is not in .*meta.mat"):
        load(flat)


def test_lines_that_are_no_labels(flat: Path) -> None:
    with pytest.raises(DataError, match=r"val.txt, line 2: 'cat.jpg 1' is no label"):
        load(labelled(flat, line2="cat.jpg 1"))
    with pytest.raises(DataError, match=r"val.txt: 6 labels, and none for ILSVRC2012_val_00000002.JPEG in"):
        load(labelled(flat, line2=f"{val_name(1)} 1"))
    with pytest.raises(DataError, match=r"numbers classes up to 9, and train/ has 3 class folders"):
        load(labelled(flat, line2=f"{val_name(2)} 9"))
    (flat / "val.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"val.txt: cannot be read"):
        load(flat)


def test_images_of_classes_that_are_not_trained_on(flat: Path) -> None:
    labelled(flat, line2=f"{val_name(2)} n09999999")
    with pytest.raises(DataError, match=r"1 of 7 images are of classes .*00000002.JPEG is n09999999"):
        load(flat)
    labelled(flat, **{f"line{i}": f"{val_name(i)} {WNIDS[i % 2]}" for i in VAL})
    with pytest.raises(DataError, match=rf"val: has no image of class {WNIDS[2]}"):
        load(flat)


def test_other_layouts_are_refused(flat: Path, tmp_path: Path) -> None:
    (flat / "val" / "cat.JPEG").write_bytes(b"")
    with pytest.raises(DataError, match=r"val: cat.JPEG: not named as published, ILSVRC2012_val_00000001.JPEG"):
        load(flat)
    writers.write_val_folders(flat)
    with pytest.raises(DataError, match=r"val: has class folders, which .* and 8 images beside them"):
        load(flat)
    with pytest.raises(DataError, match=r"and labels = x.txt: leave one out"):
        load(flat, labels="x.txt")
    with pytest.raises(DataError, match=r"none/train: no such folder; expected train/<synset>"):
        load(tmp_path / "none")
    (tmp_path / "new" / "train").mkdir(parents=True)
    (tmp_path / "new" / "val").mkdir()
    with pytest.raises(DataError, match="has no class folder and no image"):
        load(tmp_path / "new")


def test_class_folders_that_differ_are_named_together(tmp_path: Path) -> None:
    root = writers.write_val_folders(writers.write_train(tmp_path))
    (root / "val" / WNIDS[0]).rename(root / "val" / "n09999999")
    (root / "train" / "n00000001").mkdir()
    with pytest.raises(DataError) as caught:
        load(root)
    text = str(caught.value)
    assert "train/n00000001: empty class folder" in text
    assert f"val: has no class folder n00000001, {WNIDS[0]}" in text
    assert "train: has no class folder n09999999" in text
