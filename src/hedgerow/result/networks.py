"""The record of one finished network, and how it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from hedgerow.errors import CheckpointError
from hedgerow.files import write_text
from hedgerow.result.accuracy import Evaluation, Sensitivity
from hedgerow.result.base import SCHEMA, FileRecord, Record
from hedgerow.result.costs import Cost, Survival


class LayerCount(Record):
    """What was counted (not assumed) in one prunable weight."""

    name: str
    shape: list[int]
    kept: int
    total: int

    @property
    def density(self) -> float:
        """Kept share, between 0 and 1."""
        return self.kept / self.total


class SparsityCount(Record):
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


class PhaseRecord(Record):
    """One finished training phase."""

    name: str
    epochs: int
    seconds: float
    images_per_second: float
    objective: str
    selected_epoch: int | None = None
    alarm_epoch: int | None = Field(None, description="first epoch in which robust accuracy had collapsed")


class Result(FileRecord):
    """One finished network."""

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
    sensitivity: Sensitivity | None = None
    phases: list[PhaseRecord] = Field(default_factory=list)
    bytes_on_disk: dict[str, int] = Field(default_factory=dict)
    cost: Cost | None = None
    survival: list[Survival] = Field(default_factory=list)
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
