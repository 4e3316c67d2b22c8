"""Data sources, splits and device-resident batches."""

from hedgerow.data.augment import AUGMENTATIONS, Augmentation
from hedgerow.data.batches import epoch_batches, steps_per_epoch
from hedgerow.data.dataset import Dataset, Split
from hedgerow.data.load import load_dataset
from hedgerow.data.sources import SOURCES, Raw

__all__ = [
    "AUGMENTATIONS",
    "SOURCES",
    "Augmentation",
    "Dataset",
    "Raw",
    "Split",
    "epoch_batches",
    "load_dataset",
    "steps_per_epoch",
]
