"""Records of what a network is right about: under attack, under corruptions, with a layer pruned further."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints, computed_field, model_validator

from hedgerow.checks import Check, of_schema_1
from hedgerow.result.base import Measure, Record

# misclassified, robust, or broken by the attack of that name
Verdict = Annotated[str, StringConstraints(pattern=r"^(misclassified|robust|broken by \S+)$")]


class AtEps(Measure):
    """Accuracy under PGD at one radius: the share of images that stand there and at every smaller one attacked."""

    eps: str = Field(description="an exact fraction in pixel units")


class AtSeverity(Measure):
    """Accuracy under a common corruption at one severity, 1 to 5."""

    severity: int


class Corrupted(Record):
    """Accuracy under one common corruption: at every severity, and their mean."""

    name: str
    family: str
    accuracy: float
    levels: list[AtSeverity]


class Corruptions(Record):
    """Common corruptions of the same images: side information, and no word on adversarial robustness."""

    accuracy: float = Field(description="mean over corruptions of their means over severities")
    families: dict[str, float] = Field(description="the same, of the corruptions of one family")
    found: list[Corrupted]
    left_out: dict[str, str] = Field(default_factory=dict, description="corruptions that are not in it, and why")
    how: str


class Evaluation(Record):
    """Accuracies on one split, and the verdict of every example."""

    split: str
    threat: str
    examples: list[int] = Field(description="positions of the evaluated images in the split")
    measures: dict[str, Measure] = Field(description="by name: clean, pgd, autoattack, other attacks, worst_case")
    verdicts: list[Verdict]
    checks: dict[str, Check] = Field(default_factory=dict, description="integrity checks that were run")
    verified: list[bool] | None = Field(None, description="of every example: whether bounds prove the right class")
    curve: list[AtEps] = Field(default_factory=list, description="by radius, smallest first")
    corruptions: Corruptions | None = None
    refused: dict[str, str] = Field(default_factory=dict, description="what was asked and does not go, and why")

    @model_validator(mode="before")
    @classmethod
    def _of_schema_1(cls, value: Any) -> Any:
        value = of_schema_1(value)
        return {k: v for k, v in value.items() if k != "suspect"} if isinstance(value, dict) else value

    @computed_field(description="failed checks; where there is one, do not rely on the accuracies")  # type: ignore
    @property
    def suspect(self) -> list[str]:
        """Names of the checks that failed."""
        return [name for name, check in self.checks.items() if check.failed]


class LayerLoss(Record):
    """Accuracy under PGD with one layer pruned further, nothing trained afterwards."""

    layer: str
    removed: int = Field(description="weights zeroed, of those that were not zero")
    measure: Measure


class Sensitivity(Record):
    """How much robust accuracy hangs on each layer, on images that chose checkpoints already."""

    split: str
    share: float = Field(description="of the non-zero weights of the one layer")
    whole: Measure = Field(description="the finished network itself")
    layers: list[LayerLoss]
