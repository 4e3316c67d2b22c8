"""`result.json`: everything one finished network is known to be, in a versioned schema.

Whatever compares or plots networks reads these records and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hedgerow.errors import CheckpointError
from hedgerow.files import write_text
from hedgerow.threat import Norm

SCHEMA = 1

Verdict = Literal["misclassified", "broken by pgd", "broken by autoattack", "robust"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Measure(_Record):
    """An accuracy: exact count, share, 95 % Wilson interval, and how it was obtained."""

    correct: int
    n: int
    accuracy: float
    low: float
    high: float
    how: str
    seed: int
    seconds: float = 0.0


class LayerCount(_Record):
    """What was counted (not assumed) in one prunable weight."""

    name: str
    shape: list[int]
    kept: int
    total: int

    @property
    def density(self) -> float:
        """Kept share, between 0 and 1."""
        return self.kept / self.total


class SparsityCount(_Record):
    """Removed share of the prunable weights: as asked (of groups of the granularity) and as counted at the end."""

    asked: float
    granularity: str = "weight"
    kept: int
    prunable: int
    layers: list[LayerCount]

    @property
    def counted(self) -> float:
        """Removed share, between 0 and 1."""
        return 1.0 - self.kept / self.prunable


class Evaluation(_Record):
    """Accuracies on one split, and the verdict of every example."""

    split: str
    threat: str
    examples: list[int] = Field(description="positions of the evaluated images in the split")
    measures: dict[str, Measure] = Field(description="by name: clean, pgd, autoattack, worst_case")
    verdicts: list[Verdict]
    checks: dict[str, bool] = Field(default_factory=dict, description="integrity checks that were run")


class Certificate(_Record):
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


class Certification(_Record):
    """Certificates of one network on one split, and what they add up to."""

    schema_version: int = SCHEMA
    method: str
    norm: Norm
    settings: dict[str, Any] = Field(description="all that the evidence depends on beside network and images")
    how: str
    network: str = Field(description="fingerprint of the weights")
    split: str
    plain: dict[str, Measure] = Field(description="accuracy of the plain predictions, by its name")
    curve: list[AtRadius]
    abstained: int = Field(description="images of which nothing is proved, of any class")
    checks: dict[str, bool]
    certificates: list[Certificate]


class PhaseRecord(_Record):
    """One finished training phase."""

    name: str
    epochs: int
    seconds: float
    images_per_second: float
    objective: str
    selected_epoch: int | None = None
    alarm_epoch: int | None = Field(None, description="first epoch in which robust accuracy had collapsed")


class Result(_Record):
    """One finished network."""

    schema_version: int = SCHEMA
    name: str
    command: str
    recipe: dict[str, Any]
    dataset: str
    classes: list[str]
    split_sizes: dict[str, int]
    model: str
    parameters: int
    method: str
    sparsity: SparsityCount
    evaluation: Evaluation | None = None
    phases: list[PhaseRecord] = Field(default_factory=list)
    bytes_on_disk: dict[str, int] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    machine: dict[str, str | int] = Field(default_factory=dict)

    def save(self, path: Path) -> Path:
        """Write the record atomically."""
        return write_text(path, self.model_dump_json(indent=1) + "\n")


def load_result(path: Path) -> Result:
    """Read a `result.json`, or the one inside a run folder; `CheckpointError` says what is wrong with it."""
    file = path / "result.json" if path.is_dir() else path
    try:
        return Result.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such result; the run is unfinished: `hedgerow resume {path}`") from None
    except (ValidationError, UnicodeDecodeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{file}: not a result of schema {SCHEMA} ({where}: {first['msg']}). It was cut short, altered, or "
            "made by another version; delete it and resume the run, which writes it again"
        ) from error
