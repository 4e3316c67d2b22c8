"""Records of what a network costs and what its smaller forms keep: sizes, times, robustness."""

from __future__ import annotations

from pydantic import Field

from hedgerow.result.base import FileRecord, Measure, Record


class Latency(Record):
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


class StoredForm(Record):
    """A file that holds the network: its size, and how far its logits are from those of the run's network."""

    form: str
    file: str
    bytes: int
    zipped: int = Field(description="the same file, deflated")
    images: int = Field(description="how many real images it was compared on")
    largest_difference: float = Field(description="of any logit")
    relative_difference: float = Field(description="the same, to the largest logit of the run's network")
    same_class: int = Field(description="images of which it says the same class")


class Cost(Record):
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


class Survival(Record):
    """What is left of accuracy and robustness in one form of a network, beside the network itself."""

    form: str
    measures: dict[str, Measure] = Field(description="clean; replayed: on examples crafted on the network; pgd")
    changed: dict[str, int] = Field(description="images whose class is another than the network's, by measure")
    note: str = ""


class ExportRecord(FileRecord):
    """What `hedgerow export` wrote and measured."""

    name: str
    cost: Cost
    survival: list[Survival] = Field(default_factory=list)


class LatencyRecord(FileRecord):
    """What `hedgerow latency` measured."""

    name: str
    bytes_on_disk: dict[str, int] = Field(description="of each form")
    latencies: list[Latency]
    refused: dict[str, str] = Field(description="forms and engines that do not go, and why")
    machine: dict[str, str | int | float]
