"""Every corruption: shape, range, seed, batch, sizes, severities, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hedgerow.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from hedgerow.errors import DataError
from hedgerow.registry import UnknownNameError

RANDOM = {"gaussian-noise", "shot-noise", "impulse-noise", "speckle-noise", "motion-blur"}
NAMES = list(CORRUPTIONS)


def images(n: int = 3, channels: int = 3, height: int = 32, width: int = 32) -> Tensor:
    """Smooth images with an edge, as photographs are, and 8-bit values."""
    dice = torch.Generator().manual_seed(1)
    coarse = torch.rand(n, channels, 5, 5, generator=dice)
    x = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True)
    x[..., width // 2 :] *= 0.5
    return (x * 255).round() / 255


def test_the_families_are_those_of_the_paper_that_can_be_computed() -> None:
    families = {family: [n for n in NAMES if CORRUPTIONS[n].family == family] for family in ("noise", "blur")}
    assert families["noise"] == ["gaussian-noise", "impulse-noise", "shot-noise", "speckle-noise"]
    assert families["blur"] == ["defocus-blur", "gaussian-blur", "motion-blur", "zoom-blur"]
    assert len(NAMES) == 13


@pytest.mark.parametrize("name", NAMES)
def test_it_is_an_image_again_and_the_seed_decides(name: str) -> None:
    x = images()
    before = x.clone()
    first, again = corrupt(x, name, 3), corrupt(x, name, 3)
    assert torch.equal(x, before)
    assert first.shape == x.shape
    assert first.dtype == torch.float32
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, x)
    assert torch.equal(corrupt(x, name, 3, seed=1), first) is (name not in RANDOM)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_gets_the_same_in_any_batch(name: str) -> None:
    x = images(4)
    whole = corrupt(x, name, 2, positions=[7, 3, 11, 0])
    for index, position in enumerate([7, 3, 11, 0]):
        alone = corrupt(x[index : index + 1], name, 2, positions=[position])
        assert torch.allclose(whole[index], alone[0], atol=1e-6)
    backwards = corrupt(x.flip(0), name, 2, positions=[0, 11, 3, 7])
    assert torch.allclose(backwards.flip(0), whole, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 1, 1), (3, 5, 9), (3, 40, 33), (3, 96, 100)])
def test_any_size_goes(name: str, shape: tuple[int, int, int]) -> None:
    x = images(1, *shape)
    found = corrupt(x, name, 5)
    assert found.shape == x.shape
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", [32, 128])
def test_five_is_farther_from_the_image_than_one(name: str, side: int) -> None:
    x = images(2, 3, side, side)
    # The published levels of saturation first take colour away, then add it.
    levels = [(1, 2), (3, 5)] if name == "saturate" else [(1, 5)]
    apart = {severity: float((corrupt(x, name, severity) - x).square().mean()) for severity in SEVERITIES}
    assert min(apart.values()) > 0
    for less, more in levels:
        assert apart[less] < apart[more]


@pytest.mark.parametrize("name", ["defocus-blur", "gaussian-blur", "motion-blur", "zoom-blur", "contrast"])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_a_blur_leaves_an_even_image_alone(name: str, severity: int) -> None:
    even = torch.full((2, 3, 20, 24), 0.3)
    assert torch.allclose(corrupt(even, name, severity), even, atol=1e-6)


def test_grey_images_take_all_but_saturation() -> None:
    x = images(2, 1, 8, 8)
    for name in NAMES:
        if name == "saturate":
            with pytest.raises(DataError, match="'saturate' is for images of 3 channels, and these have 1"):
                corrupt(x, name, 1)
        else:
            assert corrupt(x, name, 1).shape == x.shape
    with pytest.raises(DataError, match="'jpeg' is for images of 1 or 3 channels, and these have 2"):
        corrupt(images(1, 2), "jpeg", 1)


def test_no_images_are_no_images() -> None:
    assert corrupt(torch.zeros(0, 3, 8, 8), "gaussian-noise", 1).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("severity", [0, 6, True, 2.5])
def test_other_severities_are_refused(severity: int) -> None:
    with pytest.raises(DataError, match="it is 1, 2, 3, 4 or 5"):
        corrupt(images(), "contrast", severity)


def test_other_images_and_names_are_refused() -> None:
    with pytest.raises(
        UnknownNameError, match="unknown corruption 'gausian-noise'; did you mean 'gaussian-noise'"
    ):
        corrupt(images(), "gausian-noise", 1)
    with pytest.raises(DataError, match="pixels run from"):
        corrupt(images() * 255, "contrast", 1)
    with pytest.raises(DataError, match=r"a corruption needs \[N, channels, height, width\]"):
        corrupt(torch.rand(3, 8), "contrast", 1)
    with pytest.raises(DataError, match="2 positions for 3 images"):
        corrupt(images(), "contrast", 1, positions=[1, 2])
