from __future__ import annotations

import shutil

import numpy as np
import pytest
from dataset_writers import image_bytes, write_image_folder
from PIL import Image

from hedgerow.data import SOURCES, load_dataset
from hedgerow.data.decode import decode_files, read_image
from hedgerow.errors import DataError


@pytest.fixture
def root(tmp_path):
    write_image_folder(tmp_path / "pets")
    return tmp_path / "pets"


def load(root, **options):
    return SOURCES["folder"](path=root, **options)


def test_pixels_labels_and_classes(tmp_path):
    written = write_image_folder(tmp_path / "pets", classes=("b", "a", "c"))
    raw = load(tmp_path / "pets")
    assert raw.classes == ("a", "b", "c")
    assert raw.label == "Image folder pets"
    for part, split in (("train", raw.train), ("test", raw.test)):
        assert split.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        expected = [written[f"{part}/{c}/{i}.png"].transpose(2, 0, 1) for c in "abc" for i in range(4)]
        assert np.array_equal(split.images, np.stack(expected))


def test_load_dataset(root):
    d = load_dataset("folder", path=str(root), validation=2, label="Pets")
    assert (d.label, d.classes, d.image_size, d.channels) == ("Pets", ("cat", "dog"), (8, 10), 3)
    assert (len(d.train), len(d.validation), len(d.test)) == (6, 2, 8)


def test_val_stands_in_for_test(root):
    expected = load(root).test.images
    (root / "test").rename(root / "val")
    assert np.array_equal(load(root).test.images, expected)


def test_test_wins_over_val(root):
    shutil.copytree(root / "train", root / "val")
    (root / "val" / "cat" / "0.png").write_bytes(b"never read")
    assert len(load(root).test) == 8


def test_jpeg_is_what_pillow_decodes(root):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)
    file = root / "train" / "cat" / "x.jpg"
    file.write_bytes(image_bytes(pixels, "JPEG"))
    with Image.open(file) as image:
        assert np.array_equal(load(root).train.images[4].permute(1, 2, 0), np.asarray(image))


def fill(root, image, suffix="png"):
    for part in ("train", "test"):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True, exist_ok=True)
            for i in range(2):
                image.save(root / part / name / f"{i}.{suffix}")
    return root


@pytest.mark.parametrize("mode", ["L", "1", "I;16"])
def test_grey_when_all_files_are(mode, tmp_path):
    values = np.array([[0, 255], [255, 0]])
    held = {"L": values.astype(np.uint8), "1": values > 0, "I;16": (values * 257).astype(np.uint16)}[mode]
    raw = load(fill(tmp_path, Image.fromarray(held)))
    assert raw.train.images.shape == (4, 1, 2, 2)
    assert np.array_equal(raw.train.images[0, 0], values)
    assert load(tmp_path, grey=False).train.images.shape == (4, 3, 2, 2)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 128, 129], [257, 32896, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    assert read_image(str(tmp_path / "x.png")).tolist() == [[0, 0, 1], [1, 128, 255]]


def test_one_coloured_test_image_makes_all_rgb(tmp_path):
    grey = np.array([[1, 2], [3, 4]], np.uint8)
    fill(tmp_path, Image.fromarray(grey))
    Image.new("RGB", (2, 2), (9, 8, 7)).save(tmp_path / "test" / "b" / "1.png")
    raw = load(tmp_path)
    assert raw.train.images.shape == (4, 3, 2, 2)
    assert all(np.array_equal(channel, grey) for channel in raw.train.images[0])
    assert raw.test.images[3, :, 0, 0].tolist() == [9, 8, 7]


@pytest.mark.parametrize(("mode", "suffix"), [("RGBA", "png"), ("P", "gif"), ("CMYK", "tif"), ("LA", "png")])
def test_other_modes_become_rgb(mode, suffix, tmp_path):
    assert load(fill(tmp_path, Image.new(mode, (3, 2)), suffix)).train.images.shape == (4, 3, 2, 3)


def test_grey_on_request(root):
    written = load(root).train.images[0].permute(1, 2, 0).numpy()
    grey = load(root, grey=True).train.images
    assert grey.shape == (8, 1, 8, 10)
    assert np.array_equal(grey[0, 0], np.asarray(Image.fromarray(written).convert("L")))


def test_image_size_crops_the_centre(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 60, 3), np.uint8))
    raw = load(fill(tmp_path, picture), image_size=10)
    assert raw.train.images.shape == (4, 3, 10, 10)
    slow = np.asarray(picture.resize((30, 10), Image.Resampling.BILINEAR))[:, 10:20]
    assert np.abs(raw.train.images[0].permute(1, 2, 0).numpy().astype(int) - slow).max() <= 1


def test_image_size_of_the_same_size_changes_nothing(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    fill(tmp_path, Image.fromarray(pixels))
    assert np.array_equal(load(tmp_path, image_size=8).train.images[0].permute(1, 2, 0), pixels)


def test_odd_sizes_need_image_size(root):
    for i in range(2):
        (root / "test" / "dog" / f"{i}.png").write_bytes(image_bytes(np.zeros((5, 9, 3), np.uint8)))
    with pytest.raises(DataError, match=r"2 of 16 .*train/cat/0.png, is 10x8.*image_size") as caught:
        load(root)
    assert "test/dog/0.png is 9x5" in str(caught.value)
    assert load(root, image_size=4).test.images.shape == (8, 3, 4, 4)


def test_one_broken_image_is_named(root):
    file = root / "train" / "dog" / "2.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DataError, match=r"1 of 16 images cannot be read.*\n.*train/dog/2.png"):
        load(root)
    file.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"train/dog/2.png: not an image"):
        load(root)


def test_five_broken_images_are_named_and_all_counted(root):
    for part in ("train", "test"):
        for i in range(4):
            (root / part / "cat" / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        load(root)
    text = str(caught.value)
    assert "8 of 16 images cannot be read" in text
    assert text.count("not an image") == 5
    assert "and 3 more" in text


def test_all_broken(root):
    for file in root.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match="16 of 16"):
        load(root)


def test_float_pixels_are_refused(root):
    Image.fromarray(np.zeros((8, 10), np.float32)).save(root / "train" / "cat" / "f.tif")
    with pytest.raises(DataError, match=r"f.tif: floating-point pixels"):
        load(root)


def test_wide_integers_are_refused(root):
    Image.fromarray(np.full((8, 10), 70_000, np.int32)).save(root / "train" / "cat" / "f.tif")
    with pytest.raises(DataError, match=r"f.tif: pixel values outside"):
        load(root)


def test_hidden_files_and_clutter_are_skipped(root):
    (root / "train" / ".DS_Store").write_bytes(b"x")
    (root / "train" / ".hidden").mkdir()
    (root / "train" / "README").write_text("x")
    (root / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    (root / "train" / "cat" / "Thumbs.db").write_bytes(b"x")
    assert len(load(root).train) == 8


def test_structure_errors(root, tmp_path):
    with pytest.raises(DataError, match="no such folder; expected train/<class>/<image file>"):
        load(tmp_path / "none")
    with pytest.raises(DataError, match="has no folder train and no folder test"):
        load(tmp_path)
    (root / "train" / "dog" / "more").mkdir()
    with pytest.raises(DataError, match="dog/more: a folder inside a class folder"):
        load(root)


def test_class_errors_come_together(root):
    (root / "train" / "eel").mkdir()
    shutil.rmtree(root / "train" / "cat")
    with pytest.raises(DataError) as caught:
        load(root)
    text = str(caught.value)
    assert "train/eel: empty class folder" in text
    assert "test: has no class folder eel" in text
    assert "train: has no class folder cat" in text


def test_one_class_is_too_few(root):
    for part in ("train", "test"):
        shutil.rmtree(root / part / "cat")
    with pytest.raises(DataError, match="train: a classifier needs at least 2 class folders, found 1"):
        load(root)


def test_image_size_below_one(root):
    with pytest.raises(DataError, match="image_size is 0"):
        load(root, image_size=0)


def test_more_files_than_a_chunk_keep_their_order(tmp_path):
    files = []
    for i in range(300):
        files.append(str(tmp_path / f"{i}.png"))
        Image.new("L", (1, 1), i % 256).save(files[-1])
    assert decode_files(files).flatten().tolist() == [i % 256 for i in range(300)]
