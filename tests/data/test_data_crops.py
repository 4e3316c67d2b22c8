"""Random parts of pictures: where they may lie, how they are distributed, and how they are scaled."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from hedgerow.data import AUGMENTATIONS
from hedgerow.data.crops import centre_box, random_box


def boxes(width: int, height: int, n: int = 2000) -> np.ndarray:
    dice = np.random.default_rng(0).random((n, 10, 4))
    return np.array([random_box(width, height, tries.tolist()) for tries in dice])


@pytest.mark.parametrize(("width", "height"), [(64, 64), (500, 375), (333, 500), (20, 400), (400, 20)])
def test_boxes_lie_inside_and_keep_to_their_limits(width: int, height: int) -> None:
    left, top, right, bottom = boxes(width, height).T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= width + 1e-9).all()
    assert (bottom <= height + 1e-9).all()
    ratio = (right - left) / (bottom - top)
    assert (ratio >= 3 / 4 - 1e-9).all()
    assert (ratio <= 4 / 3 + 1e-9).all()


def test_area_ratio_and_place_are_spread_evenly() -> None:
    # A try that fits with any ratio: area below 3/4 of the square.
    left, top, right, bottom = boxes(100, 100).T
    wide, tall = right - left, bottom - top
    area = wide * tall / 1e4
    small = area < 0.75
    assert area.min() >= 0.08
    assert np.quantile(area[small], [0.25, 0.5, 0.75]) == pytest.approx([0.2475, 0.415, 0.5825], abs=0.03)
    logarithm = np.log(wide / tall)[small] / math.log(4 / 3)
    assert np.quantile(logarithm, [0.25, 0.5, 0.75]) == pytest.approx([-0.5, 0, 0.5], abs=0.07)
    for place in (left / (100 - wide), top / (100 - tall)):
        assert np.quantile(place, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.05)


def test_the_first_try_that_fits_counts() -> None:
    whole, half = [0.9999, 0.999, 0.5, 0.5], [0.42 / 0.92, 0.5, 0.0, 1.0]
    assert random_box(100, 100, [whole, half]) == pytest.approx((0, 100 - 50**0.5 * 10, 50**0.5 * 10, 100))
    assert random_box(100, 100, [half, whole]) == random_box(100, 100, [half])


@pytest.mark.parametrize(
    ("size", "expected"),
    [((80, 60), (0, 0, 80, 60)), ((400, 60), (160, 0, 240, 60)), ((60, 400), (0, 160, 60, 240))],
)
def test_when_none_fits_it_is_the_middle(size: tuple[int, int], expected: tuple[int, ...]) -> None:
    assert random_box(*size, []) == pytest.approx(expected)


def test_the_centre() -> None:
    assert centre_box(60, 40) == (10, 0, 50, 40)
    assert centre_box(60, 40, 0.5) == (20, 10, 40, 30)


def test_the_augmentation_scales_each_image_by_its_own_box() -> None:
    images = torch.randint(0, 256, (6, 3, 40, 48), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    found = AUGMENTATIONS["resized-crop"](images, torch.Generator().manual_seed(2))
    dice = torch.rand(6, 10, 4, generator=torch.Generator().manual_seed(2)).tolist()
    assert found.dtype == torch.uint8
    for image, cropped, tries in zip(images, found, dice, strict=True):
        box = random_box(48, 40, tries)
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        slow = np.asarray(picture.resize((48, 40), Image.Resampling.BILINEAR, box=box)).astype(int)
        assert np.abs(cropped.permute(1, 2, 0).numpy() - slow).max() <= 2


def test_floating_images_and_grey_ones_are_scaled_too() -> None:
    images = torch.rand(4, 1, 9, 9)
    found = AUGMENTATIONS["resized-crop"](images, torch.Generator().manual_seed(0))
    assert found.dtype == torch.float32
    assert found.shape == images.shape
    assert float(found.min()) >= float(images.min())
    assert not torch.equal(found, images)
