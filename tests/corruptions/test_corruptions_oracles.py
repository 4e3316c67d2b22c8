"""Each corruption against a slow, plain computation of what the paper's constants say."""

from __future__ import annotations

import colorsys
import io
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from test_corruptions_contract import images
from torch import Tensor

from hedgerow.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from hedgerow.seeds import generator

Floats = NDArray[np.float64]


def test_the_noises_have_the_published_strength() -> None:
    grey = torch.full((1, 3, 64, 64), 0.5)
    for severity, (spread, photons, share, speckle) in enumerate(
        zip((0.04, 0.06, 0.08, 0.09, 0.1), (500, 250, 100, 75, 50), (0.01, 0.02, 0.03, 0.05, 0.07),
            (0.06, 0.1, 0.12, 0.16, 0.2), strict=True), start=1,
    ):  # fmt: skip
        normal = corrupt(grey, "gaussian-noise", severity) - 0.5
        assert normal.mean().item() == pytest.approx(0, abs=4 * spread / 110)
        assert normal.std().item() == pytest.approx(spread, rel=0.04)
        shot = corrupt(grey, "shot-noise", severity)
        assert shot.var().item() == pytest.approx(0.5 / photons, rel=0.08)
        assert torch.allclose(shot * photons, (shot * photons).round(), atol=1e-3)
        dots = corrupt(grey, "impulse-noise", severity)
        salt, pepper = ((dots == end).double().mean().item() for end in (1.0, 0.0))
        tolerance = 4 * math.sqrt(share / 2 / dots.numel())
        assert salt == pytest.approx(share / 2, abs=tolerance)
        assert pepper == pytest.approx(share / 2, abs=tolerance)
        assert bool((dots[(dots != 0) & (dots != 1)] == 0.5).all())
        assert (corrupt(grey, "speckle-noise", severity) - 0.5).std().item() == pytest.approx(
            speckle / 2, rel=0.04
        )


def by_channel(x: Tensor, change: Callable[[Floats], Floats]) -> Tensor:
    return torch.stack(
        [torch.stack([torch.from_numpy(change(plane.double().numpy())) for plane in image]) for image in x]
    ).clamp(0, 1)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize(("side", "scale"), [(20, 1.0), (48, 1.5)])
def test_gaussian_blur_is_scipys(severity: int, side: int, scale: float) -> None:
    x = images(1, 2, side, side + 3)
    sigma = (0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1] * scale
    expected = by_channel(x, lambda plane: ndimage.gaussian_filter(plane, sigma, mode="mirror", truncate=4.0))
    assert torch.allclose(corrupt(x, "gaussian-blur", severity).double(), expected, atol=1e-6)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("side", [16, 224])
def test_defocus_is_a_softened_disk(severity: int, side: int) -> None:
    small = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
    large = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
    radius, soft = (small if side == 16 else large)[severity - 1]
    size, edge = 12, 1 if radius <= 8 else 2
    hard = np.zeros((2 * size + 1, 2 * size + 1))
    for i in range(-size, size + 1):
        for j in range(-size, size + 1):
            hard[i + size, j + size] = float(math.hypot(i, j) <= radius)
    near = range(-edge, edge + 1)
    bump = np.array([[math.exp(-(i * i + j * j) / (2 * soft**2)) for j in near] for i in near])
    kernel = ndimage.convolve(hard / hard.sum(), bump / bump.sum(), mode="constant")
    x = images(1, 1, side, side)
    expected = by_channel(x, lambda plane: ndimage.convolve(plane, kernel, mode="mirror"))
    assert torch.allclose(corrupt(x, "defocus-blur", severity).double(), expected, atol=1e-6)


@pytest.mark.parametrize("severity", [1, 5])
def test_motion_blur_walks_along_a_line(severity: int) -> None:
    x = images(2, 1, 12, 14)
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
    found = corrupt(x, "motion-blur", severity, seed=4, positions=[5, 9])
    for image, position, got in zip(x, (5, 9), found, strict=True):
        turn = torch.rand((), generator=generator(4, "corruption", "motion-blur", severity, position)).item()
        angle = (turn - 0.5) * math.pi / 2
        weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
        for row in range(12):
            for column in range(14):
                total = 0.0
                for i, weight in enumerate(weights):
                    r = min(max(row - round(i * math.sin(angle)), 0), 11)
                    c = min(max(column - round(i * math.cos(angle)), 0), 13)
                    total += weight / sum(weights) * image[0, r, c].item()
                assert got[0, row, column].item() == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize(("side", "severity", "percents"), [(9, 1, range(6)), (9, 4, range(21))])
def test_zoom_blur_is_a_mean_of_enlargements(side: int, severity: int, percents: range) -> None:
    x = images(1, 1, side, side)
    plane = x[0, 0].double().numpy()
    total = plane.copy()
    middle = (side - 1) / 2
    for percent in percents:
        places = [min(max(middle + (i - middle) / (1 + percent / 100), 0), side - 1) for i in range(side)]
        total += ndimage.map_coordinates(
            plane, np.meshgrid(places, places, indexing="ij"), order=1, mode="nearest"
        )
    expected = torch.from_numpy(total / (len(percents) + 1))
    assert torch.allclose(corrupt(x, "zoom-blur", severity)[0, 0].double(), expected, atol=1e-5)


def test_zoom_levels_for_large_images_are_the_published_ones() -> None:
    assert CORRUPTIONS["zoom-blur"].large == (11, 16, (21, 2), (26, 2), (31, 3))


def colours() -> Tensor:
    plain = [(0.2, 0.4, 0.9), (0.5, 0.5, 0.5), (0, 0, 0), (1, 1, 1), (0.9, 0.1, 0.1), (0.3, 0.8, 0.8)]
    random = torch.rand(30, 3, generator=torch.Generator().manual_seed(0)).tolist()
    return torch.tensor([*plain, *random]).T.reshape(1, 3, 6, 6)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_and_saturation_are_those_of_hsv(severity: int) -> None:
    x = colours()
    more = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    factor, plus = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[severity - 1]
    brighter, deeper = corrupt(x, "brightness", severity), corrupt(x, "saturate", severity)
    for row in range(6):
        for column in range(6):
            h, s, v = colorsys.rgb_to_hsv(*x[0, :, row, column].tolist())
            expected = colorsys.hsv_to_rgb(h, s, min(v + more, 1))
            assert brighter[0, :, row, column].tolist() == pytest.approx(expected, abs=1e-5)
            expected = colorsys.hsv_to_rgb(h, min(max(s * factor + plus, 0), 1), v)
            assert deeper[0, :, row, column].tolist() == pytest.approx(expected, abs=1e-5)


def test_contrast_moves_every_value_towards_the_mean_of_its_channel() -> None:
    x = images(2, 3, 6, 6)
    found = corrupt(x, "contrast", 4)
    for image, got in zip(x, found, strict=True):
        for plane, other in zip(image, got, strict=True):
            mean = sum(plane.flatten().tolist()) / 36
            assert other.flatten().tolist() == pytest.approx(
                [min(max(mean + 0.3 * (v - mean), 0), 1) for v in plane.flatten().tolist()], abs=1e-6
            )


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("side", [32, 28, 100])
def test_pixelate_is_pillows_to_the_rounding_of_its_two_passes(severity: int, side: int) -> None:
    share = ((0.95, 0.9, 0.85, 0.75, 0.65) if side < 96 else (0.6, 0.5, 0.4, 0.3, 0.25))[severity - 1]
    x = images(1, 1, side, side)
    picture = Image.fromarray((x[0, 0] * 255).round().to(torch.uint8).numpy())
    small = picture.resize((int(side * share), int(side * share)), Image.Resampling.BOX)
    expected = torch.from_numpy(np.array(small.resize((side, side), Image.Resampling.BOX))).double() / 255
    found = corrupt(x, "pixelate", severity)[0, 0].double()
    assert (found - expected).abs().max().item() <= 1.01 / 255


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows_file_of_the_published_quality(channels: int) -> None:
    x = images(2, channels, 24, 20)
    for severity, quality in zip(SEVERITIES, (80, 65, 58, 50, 40), strict=True):
        found = corrupt(x, "jpeg", severity)
        for image, got in zip(x, found, strict=True):
            values = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            file = io.BytesIO()
            Image.fromarray(values.squeeze()).save(file, format="jpeg", quality=quality)
            expected = np.array(Image.open(file)).reshape(24, 20, channels)
            assert ((got * 255).round().permute(1, 2, 0).numpy() == expected).all()
