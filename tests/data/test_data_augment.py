from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hedgerow.data.augment import AUGMENTATIONS, crop, flip
from hedgerow.registry import UnknownNameError


def batch(n: int = 64, height: int = 32, width: int = 32, dtype: torch.dtype = torch.uint8) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(1, 256, (n, 3, height, width), generator=generator).to(dtype)


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slow_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    n, channels, height, width = images.shape
    pad_y, pad_x = height // 8, width // 8
    tops = torch.randint(2 * pad_y + 1, (n,), generator=generator).tolist()
    lefts = torch.randint(2 * pad_x + 1, (n,), generator=generator).tolist()
    out = torch.zeros_like(images)
    for i in range(n):
        canvas = torch.zeros(channels, height + 2 * pad_y, width + 2 * pad_x, dtype=images.dtype)
        canvas[:, pad_y : pad_y + height, pad_x : pad_x + width] = images[i]
        out[i] = canvas[:, tops[i] : tops[i] + height, lefts[i] : lefts[i] + width]
    return out


def slow_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    mirrored = torch.randint(2, (len(images),), generator=generator).tolist()
    return torch.stack([x.flip(2) if m else x for x, m in zip(images, mirrored, strict=True)])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("size", [(32, 32), (8, 8), (24, 17), (5, 5)])
@pytest.mark.parametrize(("fast", "slow"), [(crop, slow_crop), (flip, slow_flip)])
def test_against_a_loop_over_images(fast, slow, size, dtype):
    images = batch(40, *size, dtype=dtype)
    result = fast(images, dice(3))
    assert torch.equal(result, slow(images, dice(3)))
    assert (result.dtype, result.shape) == (images.dtype, images.shape)


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_seeded_and_input_untouched(name):
    images = batch()
    before = images.clone()
    once, twice = AUGMENTATIONS[name](images, dice(1)), AUGMENTATIONS[name](images, dice(1))
    assert torch.equal(once, twice)
    assert not torch.equal(once, AUGMENTATIONS[name](images, dice(2)))
    assert torch.equal(images, before)


def test_flip_twice_is_identity():
    images = batch()
    assert torch.equal(flip(flip(images, dice()), dice()), images)


def test_flip_takes_about_half_and_nothing_but_mirrors():
    images = batch(1000, 4, 4)
    result = flip(images, dice())
    kept = (result == images).flatten(1).all(1)
    mirrored = (result == images.flip(3)).flatten(1).all(1)
    assert bool((kept ^ mirrored).all())
    assert 430 < int(kept.sum()) < 570


def test_crop_moves_up_to_four_pixels_at_32_each_image_by_itself():
    images = torch.zeros(2000, 1, 32, 32, dtype=torch.uint8)
    images[:, :, 16, 16] = 1
    where = crop(images, dice()).flatten(1).argmax(1)
    moves = {(int(p) // 32 - 16, int(p) % 32 - 16) for p in where}
    assert moves == {(y, x) for y in range(-4, 5) for x in range(-4, 5)}


def test_crop_of_a_tiny_image_is_identity():
    images = batch(8, 7, 7)
    assert torch.equal(crop(images, dice()), images)


def test_unknown_name_lists_the_known():
    with pytest.raises(UnknownNameError, match="did you mean 'flip'"):
        AUGMENTATIONS["flp"]


def test_all_have_a_summary():
    assert all(AUGMENTATIONS.summary(name) for name in AUGMENTATIONS)
