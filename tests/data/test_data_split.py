from __future__ import annotations

import dataclasses

import pytest
import torch

from hedgerow.data import Dataset, Split
from hedgerow.errors import DataError


def split(n: int = 12, classes: int = 3, shape: tuple[int, ...] = (2, 4, 5), seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, *shape), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(n) % classes)


def dataset(train: Split, **changes: object) -> Dataset:
    parts = {"name": "x", "label": "X", "classes": ("a", "b", "c"), "validation": split(3), "test": split(3)}
    return Dataset(**{**parts, "train": train, **changes})  # type: ignore[arg-type]


def test_pixels_are_uint8_over_255():
    s = split()
    assert torch.equal(s.pixels(), s.images.float() / 255)
    assert torch.equal(s.pixels(torch.tensor([3, 1])), s.images[[3, 1]].float() / 255)
    assert torch.equal(s.pixels(slice(2, 4)), s.images[2:4].float() / 255)
    assert s.pixels().dtype == torch.float32
    assert s.pixels().max() <= 1


def test_pixels_leaves_the_images_alone():
    s = split()
    before = s.images.clone()
    s.pixels().zero_()
    assert torch.equal(s.images, before)


def test_positions_default_to_the_order():
    assert split(5).positions.tolist() == [0, 1, 2, 3, 4]


def test_take_is_sorted_seeded_and_remembers_where_from():
    s = split(30)
    some = s.take(7, seed=3)
    assert len(some) == 7
    assert some.positions.tolist() == sorted(set(some.positions.tolist()))
    assert torch.equal(some.images, s.images[some.positions])
    assert torch.equal(some.labels, s.labels[some.positions])
    assert torch.equal(some.positions, s.take(7, seed=3).positions)
    assert not torch.equal(some.positions, s.take(7, seed=4).positions)


def test_take_of_a_take_points_to_the_first_split():
    s = split(30)
    twice = s.take(20, seed=1).take(6, seed=1)
    assert torch.equal(twice.images, s.images[twice.positions])


@pytest.mark.parametrize("n", [None, 12, 13])
def test_take_all(n):
    s = split(12)
    assert s.take(n, seed=0) is s


@pytest.mark.parametrize("n", [0, -1])
def test_take_nothing_is_an_error(n):
    with pytest.raises(DataError, match=f"cannot take {n} images"):
        split(12).take(n, seed=0)


def test_to_moves_everything():
    moved = split().to("meta")
    assert {moved.images.device.type, moved.labels.device.type, moved.positions.device.type} == {"meta"}
    assert moved.device.type == "meta"


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), r"expected torch.uint8 \[N, C, H, W\]"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), r"\[2, 4, 4\]"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2), "expected torch.int64"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "2 images and 3"),
        (torch.zeros(0, 1, 4, 4, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), "empty"),
    ],
)
def test_split_refuses(images, labels, message):
    with pytest.raises(DataError, match=message):
        Split(images, labels)


def test_positions_of_another_length_are_refused():
    with pytest.raises(DataError, match="positions"):
        Split(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), torch.tensor([0]))


def test_dataset_shape_names():
    d = dataset(split())
    assert (d.num_classes, d.channels, d.image_size) == (3, 2, (4, 5))


def test_mean_and_std_against_float64():
    s = split(12)
    d = dataset(s)
    x = s.images.double() / 255
    assert d.mean == pytest.approx(x.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert d.std == pytest.approx(x.std((0, 2, 3), unbiased=False).tolist(), abs=1e-12)


def test_std_of_flat_images_has_a_floor():
    flat = Split(torch.full((3, 2, 4, 5), 51, dtype=torch.uint8), torch.arange(3))
    assert dataset(flat).std == (1e-3, 1e-3)
    assert dataset(flat).mean == pytest.approx((0.2, 0.2))


@pytest.mark.parametrize("wrong", [3, -1])
def test_label_outside_the_classes_is_named(wrong):
    s = split(6)
    labels = s.labels.clone()
    labels[4] = wrong
    with pytest.raises(DataError, match=rf"X, train: label {wrong} at position 4, and 3 classes.*0 to 2"):
        dataset(Split(s.images, labels))


def test_shapes_of_splits_must_agree():
    with pytest.raises(DataError, match=r"test images are \[1, 4, 5\] and training images \[2, 4, 5\]"):
        dataset(split(), test=split(3, shape=(1, 4, 5)))


def test_dataset_to_moves_all_splits():
    d = dataset(split()).to("cpu")
    assert all(s.device.type == "cpu" for s in d.splits.values())
    assert d.label == "X"


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        split().images = torch.zeros(1)  # type: ignore[misc]
