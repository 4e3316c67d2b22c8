"""Data sources, splits, and batches of images that are on the device or streamed from files."""

from hedgerow.data.augment import AUGMENTATIONS, Augmentation
from hedgerow.data.batches import batch_length, epoch_batches, steps_per_epoch
from hedgerow.data.dataset import Dataset
from hedgerow.data.load import load_dataset
from hedgerow.data.sources import SOURCES, Raw
from hedgerow.data.split import Split
from hedgerow.data.streamed import AnySplit, Reading, StreamedSplit
from hedgerow.data.workers import worker_errors

__all__ = [
    "AUGMENTATIONS",
    "SOURCES",
    "AnySplit",
    "Augmentation",
    "Dataset",
    "Raw",
    "Reading",
    "Split",
    "StreamedSplit",
    "batch_length",
    "epoch_batches",
    "load_dataset",
    "steps_per_epoch",
    "worker_errors",
]
