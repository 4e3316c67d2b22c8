"""The sections of a recipe: every key, its type, its range and its default."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    field_validator,
)

from hedgerow.attacks import SparseCrafting
from hedgerow.bounds import Method
from hedgerow.sparsity import Budget
from hedgerow.threat import Norm, ThreatModel, parse_fraction
from hedgerow.training.live import LogName
from hedgerow.training.plan import OptimiserName, ScheduleName, Select
from hedgerow.training.precision import Precision

Exact = Annotated[Fraction, BeforeValidator(parse_fraction), PlainSerializer(str, return_type=str)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Product = dict[str, Annotated[list[Any], Field(min_length=1)]]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DataSection(_Section):
    """Which images, and how they are divided. Further keys go to the source itself."""

    model_config = ConfigDict(extra="allow")

    source: str = "digits"
    path: str | None = None
    label: str | None = None
    validation: float | int = Field(0.1, gt=0, description="share (below 1) or number of training images")
    train_limit: Count | None = None
    test_limit: Count | None = None
    augment: list[str] = []


class ModelSection(_Section):
    """Which network: one of the zoo by `name`, or the user's own by `factory` (`package.module:function`)."""

    name: str = "cnn-small"
    factory: str | None = None
    weights: str | None = None
    normalize: bool | None = None
    options: dict[str, Any] = {}


class ThreatSection(_Section):
    """The threat model."""

    norm: Norm = "linf"
    eps: Exact = Fraction(8, 255)

    @field_validator("eps")
    @classmethod
    def _possible(cls, value: Fraction, info: ValidationInfo) -> Fraction:
        return ThreatModel(info.data.get("norm", "linf"), value).eps

    def build(self) -> ThreatModel:
        """Return the threat model."""
        return ThreatModel(self.norm, self.eps)


class ObjectiveSection(_Section):
    """What to be robust against. Further keys go to the objective itself."""

    model_config = ConfigDict(extra="allow")

    name: str = "pgd-at"


class PruningSection(_Section):
    """Which connections live, and how many. Further keys go to the method itself."""

    model_config = ConfigDict(extra="allow")

    method: str
    sparsity: Exact
    distribution: str = "uniform"

    @field_validator("sparsity")
    @classmethod
    def _in_range(cls, value: Fraction) -> Fraction:
        return Budget(value).sparsity


class PhaseSection(_Section):
    """One training phase; `objective` overrides the recipe's, `ema` is the decay of an average of the weights."""

    epochs: int = Field(ge=0)
    lr: float = Field(gt=0)
    batch_size: Count = 128
    optimizer: OptimiserName = "sgd"
    momentum: Share = 0.9
    weight_decay: float = Field(5e-4, ge=0)
    schedule: ScheduleName = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    select: Select = "best"
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    objective: ObjectiveSection | None = None


class PretrainSection(PhaseSection):
    """Dense training; `reuse` names a run folder (relative to this run's) whose finished pretraining serves."""

    epochs: int = Field(100, ge=0)
    lr: float = Field(0.1, gt=0)
    reuse: str | None = None


class PruneSection(PhaseSection):
    """The decision; methods that do not learn (magnitude) take no epochs whatever is written here."""

    epochs: int = Field(20, ge=0)
    lr: float = Field(0.1, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    select: Select = "last"


class FinetuneSection(PhaseSection):
    """Training of what was kept."""

    epochs: int = Field(100, ge=0)
    lr: float = Field(0.01, gt=0)


class PhasesSection(_Section):
    """The three phases in their order; the published lengths by default."""

    pretrain: PretrainSection = Field(default_factory=PretrainSection)
    prune: PruneSection = Field(default_factory=PruneSection)
    finetune: FinetuneSection = Field(default_factory=FinetuneSection)


class AttackSection(_Section):
    """One further attack, by its name alone or with settings of its own as further keys."""

    model_config = ConfigDict(extra="allow")

    name: str


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class EvaluationSection(_Section):
    """What the finished network is put through; `examples` test images, all of them when null.

    `attacks` are run beside PGD and AutoAttack, and the worst case per example is over all of them.

    `eot` and `draws` are of stochastic networks alone: the draws that PGD's gradients are averaged over, and those
    whose mean logits predict; 10 each when null. `verify` names bounds that look for proofs on the same images.

    `curve` lists further radii for PGD on the same images. `sensitivity` is a share: that much of one layer alone
    is zeroed, for each layer in turn, and PGD is run on `sensitivity_examples` validation images.

    `corruptions` names common corruptions of the same images, `all` for every one that they take.

    `integrity` is how many of the images the integrity checks look at that ask the network again; 0 for none.
    """

    examples: Count | None = None
    pgd_steps: Count = 50
    pgd_restarts: Count = 5
    autoattack: bool = True
    attacks: list[Annotated[AttackSection, BeforeValidator(_named)]] = []
    verify: Method | None = None
    curve: list[Exact] = []
    corruptions: Annotated[list[str], BeforeValidator(_one_or_more)] = []
    sensitivity: Annotated[float, Field(gt=0, le=1)] | None = None
    sensitivity_examples: Count = 200
    eot: Count | None = None
    draws: Count | None = None
    batch_size: Count = 500
    gallery: int = Field(24, ge=0)
    integrity: int = Field(100, ge=0)


class Recipe(_Section):
    """A whole run. With `grid`, a run for every combination of the listed values, on one pretrained network.

    A grid may also be a list of such products, carried out in their order. `methods` holds settings that a method
    takes wherever a grid or a comparison runs it, as `{method: {key path: value}}`; the grid's own values win.
    `log` names where the numbers of every epoch go beside `metrics.jsonl`.
    `sync_bn`: several processes (`--devices`) normalise over the batch of all of them, as one alone would.
    `compile`: the steps of training run a network compiled by PyTorch; `hedgerow tune` measures whether it pays.
    `recompute`: the training pass keeps less for its backward pass and computes it again: slower, in less memory.
    `sparse_crafting`: attacks in training are made on the non-zeros where few are left and the phase is long; `on`
    does so in short phases too, `off` never.
    """

    name: str
    description: str = ""
    seed: int = Field(0, ge=0)
    precision: Precision = "float32"
    channels_last: bool = False
    sync_bn: bool = False
    compile: bool = False
    recompute: bool = False
    sparse_crafting: SparseCrafting = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    log: list[LogName] = []
    data: DataSection = Field(default_factory=DataSection)
    model: ModelSection = Field(default_factory=ModelSection)
    threat: ThreatSection = Field(default_factory=ThreatSection)
    objective: ObjectiveSection = Field(default_factory=ObjectiveSection)
    pruning: PruningSection | None = None
    phases: PhasesSection = Field(default_factory=PhasesSection)
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
    grid: list[Product] = []
    methods: dict[str, dict[str, Any]] = {}

    @field_validator("grid", mode="before")
    @classmethod
    def _one_product(cls, value: Any) -> Any:
        return ([value] if value else []) if isinstance(value, dict) else value

    def dump(self) -> dict[str, Any]:
        """Return the recipe as plain values, with every default written out."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Return the recipe as YAML that reads back equal."""
        return yaml.safe_dump(self.dump(), sort_keys=False)
