"""Which part of a picture is kept: rectangles (left, top, right, bottom) in pixels, with fractions."""

from __future__ import annotations

import math
from collections.abc import Sequence

Box = tuple[float, float, float, float]

TRIES = 10
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)


def centre_box(width: int, height: int, share: float = 1.0) -> Box:
    """Return the square in the middle whose side is `share` (0 to 1) of the shorter side."""
    side = min(width, height) * share
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def random_box(width: int, height: int, dice: Sequence[Sequence[float]]) -> Box:
    """Return a rectangle of 8 % to 100 % of the area, 3:4 to 4:3, anywhere (1409.4842, section 6).

    `dice` is `[tries, 4]` in [0,1): area (uniform), ratio (uniform in its logarithm), place across, place down.
    The first try that fits counts; when none does, the largest rectangle in the middle with the nearest ratio.
    """
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for size, shape, across, down in dice:
        area = (AREA[0] + size * (AREA[1] - AREA[0])) * width * height
        ratio = math.exp(low + shape * (high - low))
        wide, tall = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if wide <= width and tall <= height:
            left, top = across * (width - wide), down * (height - tall)
            return left, top, left + wide, top + tall
    ratio = min(max(width / height, RATIO[0]), RATIO[1])
    wide, tall = min(width, height * ratio), min(height, width / ratio)
    left, top = (width - wide) / 2, (height - tall) / 2
    return left, top, left + wide, top + tall
