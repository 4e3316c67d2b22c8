"""Handwritten digits that come with scikit-learn: small, and there without a download."""

from __future__ import annotations

import numpy as np
import torch

from hedgerow.data.sources import SOURCES, Raw
from hedgerow.data.split import Split
from hedgerow.data.stratify import draw

TEST_SHARE = 0.2


@SOURCES.register("digits")
def digits() -> Raw:
    """1,797 grey 8x8 images of handwritten digits that come with scikit-learn; no files needed."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    whole = Split(images, torch.from_numpy(bunch.target.astype(np.int64)))
    # A constant seed: the test set is a property of the source, not of a run.
    test, train = draw(whole.labels, round(TEST_SHARE * len(whole)), seed=0, place="digits test")
    return Raw(
        label="Digits 8x8 (scikit-learn)",
        classes=tuple(map(str, range(10))),
        train=Split(whole.images[train], whole.labels[train]),
        test=Split(whole.images[test], whole.labels[test]),
    )
