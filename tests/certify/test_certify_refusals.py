"""What gets no certificate: networks that the proof does not cover, bad images, settings out of range."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from certify_cases import SMALL, HalfSpace, images
from torch import Tensor, nn

from hedgerow.certify import Smoothing, certify
from hedgerow.errors import CertificationError, DataError, ModelError


class Random(HalfSpace):
    """Draws, and does not say so."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.randn(len(x), 2)


class ByBatch(HalfSpace):
    """Centres its values in the batch."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits - logits.mean(0)


class Broken(HalfSpace):
    """Returns something else for more images than the checks use."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return self.value(logits) if len(x) > 8 else logits


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Random(), "no module of it says that it is stochastic"),
        (ByBatch(), "depends on the other images of the batch"),
        (
            nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16, track_running_stats=False)),
            "depends on the other images",
        ),
        (Broken(lambda logits: logits * math.nan), "returned NaN or infinity under noise"),
        (Broken(lambda logits: logits / 0), "returned NaN or infinity under noise"),
        (Broken(lambda logits: logits[:1]), r"returned \[1, 2\]; expected logits \[220, classes\]"),
        (Broken(lambda logits: (logits, 1)), r"returned tuple; expected logits"),
        (nn.Flatten(0), r"returned \[128\]; expected logits \[8, classes\]"),
    ],
)
def test_networks_that_the_proof_does_not_cover_are_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        certify(model, images(4), SMALL, batch_size=220)


def test_a_network_that_fails_names_the_image() -> None:
    with pytest.raises(ModelError, match="image 9: the network returned NaN"):
        certify(Broken(lambda logits: logits * math.nan), images(1), SMALL, positions=[9], batch_size=100)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (images(2) + 1, {}, r"expected \[0,1\]"),
        (images(2) * math.nan, {}, r"expected \[0,1\]"),
        ((255 * images(2)).to(torch.uint8), {}, "expected floats"),
        (images(0), {}, "there is no image to certify"),
        (images(2), {"positions": [1]}, "1 positions for 2 images"),
        (images(2), {"positions": [1, 1]}, "give every image one of its own"),
        (images(2), {"positions": [0, -1]}, "0 or more"),
    ],
)
def test_bad_images_are_refused(x: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        certify(HalfSpace(), x, SMALL, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, "sigma is 0.0"),
        ({"sigma": -1.0}, "sigma is -1.0"),
        ({"n": 0}, "n is 0"),
        ({"n0": 0}, "n0 is 0"),
        ({"n": 9}, "n is 9; it must be a whole number, 10 or more: fewer cannot certify anything at alpha 0.001"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"alpha": 1.0}, "alpha is 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CertificationError, match=message):
        Smoothing(**{"sigma": 0.25, **options})


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(CertificationError, match="batch_size is 0"):
        certify(HalfSpace(), images(1), SMALL, batch_size=0)
