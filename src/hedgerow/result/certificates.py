"""Records of what is proved of a network: a certificate for every image."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from hedgerow.checks import Check
from hedgerow.result.base import FileRecord, Measure, Record
from hedgerow.threat import Norm


class Certificate(Record):
    """What is proved of one image: every image closer than `radius` is of class `prediction`; null: nothing."""

    example: int = Field(description="position of the image in the split")
    label: int
    prediction: int | None
    radius: float
    answer: int = Field(description="the plain prediction, with no proof")
    evidence: dict[str, Any] = Field(description="what the method counted or computed")


class AtRadius(Measure):
    """Certified accuracy: the share of images with the right class proved to `radius` or farther."""

    radius: float


class Certification(FileRecord):
    """Certificates of one network on one split, and what they add up to."""

    method: str
    norm: Norm
    settings: dict[str, Any] = Field(description="all that the evidence depends on beside network and images")
    how: str
    network: str = Field(description="fingerprint of the weights")
    split: str
    plain: dict[str, Measure] = Field(description="accuracy of the plain predictions, by its name")
    curve: list[AtRadius]
    abstained: int = Field(description="images of which nothing is proved, of any class")
    checks: dict[str, Check]
    certificates: list[Certificate]
