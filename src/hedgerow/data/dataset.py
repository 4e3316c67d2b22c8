"""The three sets of images that a run needs, in memory or streamed from files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from hedgerow.data.split import Split, check_labels
from hedgerow.data.streamed import AnySplit
from hedgerow.errors import DataError

STD_FLOOR = 1e-3
SAMPLED = 1024  # streamed training images that mean and deviation are measured on


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training, validation and test images of one source, all of one shape.

    `name` is the source's, `label` is for people. Raises `DataError` when a label has no class, or when the
    images of two splits differ in shape.
    """

    name: str
    label: str
    classes: tuple[str, ...]
    train: AnySplit
    validation: AnySplit
    test: AnySplit

    def __post_init__(self) -> None:
        for part, split in self.splits.items():
            check_labels(split.labels, len(self.classes), f"{self.label}, {part}")
            if split.shape != self.train.shape:
                raise DataError(
                    f"{self.label}: {part} images are {list(split.shape)} and training images "
                    f"{list(self.train.shape)}; all splits need one shape"
                )

    @property
    def splits(self) -> dict[str, AnySplit]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return self.train.shape[0]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.train.shape[1:]

    @cached_property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        # A histogram of 256 integers is exact: the same on every device, and no float copy of the images.
        values = torch.arange(256, dtype=torch.float64) / 255.0
        means, stds = [], []
        known = self.train if isinstance(self.train, Split) else self.train.take(SAMPLED, seed=0).resident()
        for channel in known.images.unbind(1):
            counts = torch.bincount(channel.flatten(), minlength=256).cpu().to(torch.float64)
            share = counts / counts.sum()
            mean = float((share * values).sum())
            means.append(mean)
            stds.append(max(float((share * (values - mean).square()).sum()) ** 0.5, STD_FLOOR))
        return tuple(means), tuple(stds)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel over the training images, in [0,1]; over 1,024 of them when they are streamed."""
        return self._moments[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel over the same images ([0,1] units), at least 0.001."""
        return self._moments[1]

    def to(self, device: torch.device | str) -> Dataset:
        """Return the same dataset with every split on `device`."""
        moved = {part: split.to(device) for part, split in self.splits.items()}
        return replace(self, **moved)  # type: ignore[arg-type]
