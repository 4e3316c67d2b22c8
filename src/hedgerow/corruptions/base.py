"""What a common corruption is: a change of the image by its severity, random where it is by seed and position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from hedgerow.attacks import check_images
from hedgerow.errors import DataError
from hedgerow.registry import Registry
from hedgerow.seeds import generator

Family = Literal["noise", "blur", "digital"]
SEVERITIES = (1, 2, 3, 4, 5)
SMALL, LARGE = 32, 224
BORDER = 96
"""Shorter side, in pixels, from which the constants of ImageNet-C hold; below it those of CIFAR-10-C do."""


@dataclass(frozen=True)
class Place:
    """Where a batch of images stands: what its randomness comes from, and how long a published pixel is here."""

    seed: int
    name: str
    severity: int
    positions: Sequence[int]
    scale: float

    def draw(self, x: Tensor, fill: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
        """Return `fill(image, generator)` of each image of `x`, on its device; drawn on the CPU, one by one."""
        places = ((self.seed, "corruption", self.name, self.severity, position) for position in self.positions)
        drawn = [fill(image, generator(*place)) for image, place in zip(x.cpu(), places, strict=True)]
        return torch.stack(drawn).to(x.device)


@dataclass(frozen=True)
class Corruption:
    """One corruption: its family, its five levels for small and for large images, and for how many channels.

    `apply(x, level, place)` takes `[N, C, H, W]` in [0,1]; what it returns is cut to [0,1] by `corrupt`.
    """

    family: Family
    summary: str
    small: tuple[Any, ...]
    large: tuple[Any, ...]
    apply: Callable[[Tensor, Any, Place], Tensor] = field(repr=False)
    channels: tuple[int, ...] = ()

    def refusal(self, channels: int) -> str | None:
        """Return why it cannot be computed for images of so many channels; None where it can."""
        if not self.channels or channels in self.channels:
            return None
        return f"is for images of {' or '.join(map(str, self.channels))} channels, and these have {channels}"


CORRUPTIONS: Registry[Corruption] = Registry("corruption")


def register(
    name: str,
    *,
    family: Family,
    small: Sequence[Any],
    large: Sequence[Any],
    channels: tuple[int, ...] = (),
) -> Callable[[Callable[[Tensor, Any, Place], Tensor]], Callable[[Tensor, Any, Place], Tensor]]:
    """Return a decorator that files a function under `name`, with its constants for severities 1 to 5."""

    def file(function: Callable[[Tensor, Any, Place], Tensor]) -> Callable[[Tensor, Any, Place], Tensor]:
        summary = (function.__doc__ or "").strip().partition("\n")[0]
        CORRUPTIONS.register(name)(
            Corruption(family, summary, tuple(small), tuple(large), function, channels=channels)
        )
        return function

    return file


def corruption_of(name: str) -> Corruption:
    """Return the corruption of that name; `UnknownNameError`, and `DataError` for something else by that path."""
    found = CORRUPTIONS[name]
    if not isinstance(found, Corruption):
        raise DataError(f"corruption {name!r} is a {type(found).__name__}; give a hedgerow.corruptions.Corruption")
    return found


def corrupt(
    x: Tensor, name: str, severity: int, *, seed: int = 0, positions: Sequence[int] | None = None
) -> Tensor:
    """Return `[N, C, H, W]` images in [0,1] under a corruption of 1903.12261, at severity 1 to 5.

    What is random depends on `seed`, name, severity and the image's position (0 to N-1 unless given) alone: not on
    the batch that an image is in. The constants are those published with CIFAR-10-C where the shorter side is
    below 96 pixels, and with ImageNet-C otherwise. Lengths in pixels grow with that side, from 32 or 224 pixels
    on; they shrink with it for large images only, since a blur of less than a pixel is none.

    Raises `UnknownNameError` for a name that is not known, and `DataError` for pixels outside [0,1], another
    severity, positions that are not one for each image, and a number of channels that it is not made for.
    """
    corruption = corruption_of(name)
    check_images(x)
    if x.dim() != 4:
        raise DataError(f"images are {list(x.shape)}; a corruption needs [N, channels, height, width]")
    if isinstance(severity, bool) or severity not in SEVERITIES:
        raise DataError(f"severity is {severity!r}; it is 1, 2, 3, 4 or 5")
    if reason := corruption.refusal(x.shape[1]):
        raise DataError(f"corruption {name!r} {reason}")
    places = list(range(len(x))) if positions is None else [int(p) for p in positions]
    if len(places) != len(x):
        raise DataError(f"{len(places)} positions for {len(x)} images; give one for each")
    if not len(x):
        return x.clone()
    side = min(x.shape[2:])
    large = side >= BORDER
    scale = side / LARGE if large else max(1.0, side / SMALL)
    level = (corruption.large if large else corruption.small)[severity - 1]
    return corruption.apply(x, level, Place(seed, name, severity, places, scale)).clamp(0.0, 1.0)
