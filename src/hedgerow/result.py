"""`result.json`: everything one finished network is known to be, in a versioned schema.

Whatever compares or plots networks reads these records and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    computed_field,
    model_validator,
)

from hedgerow.checks import Check, of_schema_1
from hedgerow.errors import CheckpointError
from hedgerow.files import write_text
from hedgerow.threat import Norm

SCHEMA = 2
"""1: a check was true or false. Files of schema 1 are read as 2."""

# misclassified, robust, or broken by the attack of that name
Verdict = Annotated[str, StringConstraints(pattern=r"^(misclassified|robust|broken by \S+)$")]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _File(_Record):
    schema_version: int = Field(SCHEMA, ge=1, le=SCHEMA)

    @model_validator(mode="before")
    @classmethod
    def _of_schema_1(cls, value: Any) -> Any:
        older = isinstance(value, dict) and value.get("schema_version") == 1
        return {**value, "schema_version": SCHEMA} if older else value


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


class AtEps(Measure):
    """Accuracy under PGD at one radius: the share of images that stand there and at every smaller one attacked."""

    eps: str = Field(description="an exact fraction in pixel units")


class AtSeverity(Measure):
    """Accuracy under a common corruption at one severity, 1 to 5."""

    severity: int


class Corrupted(_Record):
    """Accuracy under one common corruption: at every severity, and their mean."""

    name: str
    family: str
    accuracy: float
    levels: list[AtSeverity]


class Corruptions(_Record):
    """Common corruptions of the same images: side information, and no word on adversarial robustness."""

    accuracy: float = Field(description="mean over corruptions of their means over severities")
    families: dict[str, float] = Field(description="the same, of the corruptions of one family")
    found: list[Corrupted]
    left_out: dict[str, str] = Field(default_factory=dict, description="corruptions that are not in it, and why")
    how: str


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


class LayerLoss(_Record):
    """Accuracy under PGD with one layer pruned further, nothing trained afterwards."""

    layer: str
    removed: int = Field(description="weights zeroed, of those that were not zero")
    measure: Measure


class Sensitivity(_Record):
    """How much robust accuracy hangs on each layer, on images that chose checkpoints already."""

    split: str
    share: float = Field(description="of the non-zero weights of the one layer")
    whole: Measure = Field(description="the finished network itself")
    layers: list[LayerLoss]


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


class Certification(_File):
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


class Latency(_Record):
    """How long one form of a network takes under one engine, in a process of its own."""

    form: str
    engine: str
    threads: int
    batch: int
    median_ms: float = Field(description="one batch, milliseconds")
    low_ms: float = Field(description="a tenth of the runs took less")
    high_ms: float = Field(description="a tenth of the runs took more")
    runs: int
    images_per_second: float
    load_seconds: float = Field(description="reading the file and compiling, once")
    peak_memory: int = Field(description="bytes of the whole process at its largest, libraries included")


class StoredForm(_Record):
    """A file that holds the network: its size, and how far its logits are from those of the run's network."""

    form: str
    file: str
    bytes: int
    zipped: int = Field(description="the same file, deflated")
    images: int = Field(description="how many real images it was compared on")
    largest_difference: float = Field(description="of any logit")
    relative_difference: float = Field(description="the same, to the largest logit of the run's network")
    same_class: int = Field(description="images of which it says the same class")


class Cost(_Record):
    """What a finished network costs: counted, stored and timed."""

    parameters: int
    nonzeros: int = Field(description="parameters that are not zero")
    flops_dense: int | None = Field(description="of one image, 2 per multiplication with its addition")
    flops_sparse: int | None = Field(description="the same, of the non-zero weights alone")
    flops_unknown: list[str] = Field(description="operations whose FLOPs are not known")
    bytes_dense: int = Field(description="all parameters and buffers as plain float32, zeros included")
    forms: list[StoredForm] = Field(default_factory=list)
    latencies: list[Latency] = Field(default_factory=list)
    refused: dict[str, str] = Field(default_factory=dict, description="forms and engines that do not go, and why")
    machine: dict[str, str | int | float] = Field(default_factory=dict)


class Survival(_Record):
    """What is left of accuracy and robustness in one form of a network, beside the network itself."""

    form: str
    measures: dict[str, Measure] = Field(description="clean; replayed: on examples crafted on the network; pgd")
    changed: dict[str, int] = Field(description="images whose class is another than the network's, by measure")
    note: str = ""


class ExportRecord(_File):
    """What `hedgerow export` wrote and measured."""

    name: str
    cost: Cost
    survival: list[Survival] = Field(default_factory=list)


class LatencyRecord(_File):
    """What `hedgerow latency` measured."""

    name: str
    bytes_on_disk: dict[str, int] = Field(description="of each form")
    latencies: list[Latency]
    refused: dict[str, str] = Field(description="forms and engines that do not go, and why")
    machine: dict[str, str | int | float]


class PhaseRecord(_Record):
    """One finished training phase."""

    name: str
    epochs: int
    seconds: float
    images_per_second: float
    objective: str
    selected_epoch: int | None = None
    alarm_epoch: int | None = Field(None, description="first epoch in which robust accuracy had collapsed")


class Result(_File):
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
