"""What is to be exported or timed: the network of a run folder or of a weights file, with its images."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor, nn

from hedgerow.data import AnySplit
from hedgerow.errors import ModelError
from hedgerow.evaluation import Protocol
from hedgerow.export.onnx_file import at_least_two
from hedgerow.pipeline import dataset_of, model_of
from hedgerow.recipe import Recipe
from hedgerow.reevaluate import read_target
from hedgerow.report import write_report
from hedgerow.result import Cost, Survival, load_result
from hedgerow.runfolder import RunFolder, load_weights
from hedgerow.tracing import flops, trace


@dataclass(frozen=True)
class Source:
    """A finished network on the CPU in eval mode, its recipe, and its training and test images."""

    target: Path
    recipe: Recipe
    model: nn.Module
    train: AnySplit
    test: AnySplit

    def beside(self, name: str) -> Path:
        """Return the place of that name in the run folder, or beside the weights file with its name before it."""
        target = self.target
        return target / name if target.is_dir() else target.with_name(f"{target.stem}-{name}")

    def keep(self, cost: Cost, survival: list[Survival] | None = None) -> None:
        """Bring the `result.json` and the page of a run folder up to date; nothing for a weights file."""
        folder = RunFolder(self.target)
        if not self.target.is_dir() or not folder.result.exists():
            return
        result = load_result(self.target)
        result.cost = merged(result.cost, cost)
        result.survival = survival or result.survival
        result.save(folder.result)
        write_report([self.target], folder.report)


def source_of(target: Path, recipe: str | None) -> Source:
    """Read a run folder, or a file of weights under `recipe`; raises what `read_target` raises."""
    loaded, weights = read_target(target, recipe, {})
    data = dataset_of(loaded)
    model = model_of(loaded, data)
    load_weights(model, weights)
    return Source(target, loaded, model.cpu().eval(), data.train, data.test)


def protocol_of(recipe: Recipe) -> Protocol:
    """Return the recipe's evaluation without AutoAttack, which needs too long to be run on every form."""
    section = recipe.evaluation
    return Protocol(
        pgd_steps=section.pgd_steps,
        pgd_restarts=section.pgd_restarts,
        autoattack=False,
        integrity=0,
        batch_size=section.batch_size,
        seed=recipe.seed,
    )


def counted(model: nn.Module, images: Tensor) -> Cost:
    """Return what can be counted of a network: parameters, non-zeros, FLOPs, dense bytes."""
    parameters = list(model.parameters())
    dense: int | None = None
    sparse: int | None = None
    try:
        graph = trace(model, at_least_two(images))
        with torch.no_grad():
            found = flops(graph, model)
        dense, sparse, unknown = found.dense, found.sparse, list(found.unknown)
    except ModelError as error:
        unknown = [f"the whole network: {error}"]
    return Cost(
        parameters=sum(p.numel() for p in parameters),
        nonzeros=sum(int(torch.count_nonzero(p)) for p in parameters),
        flops_dense=dense,
        flops_sparse=sparse,
        flops_unknown=unknown,
        bytes_dense=sum(t.numel() * t.element_size() for t in model.state_dict().values()),
        machine=machine(),
    )


def machine() -> dict[str, str | int | float]:
    """Return what a time depends on: processor, cores, versions, and how busy the machine is right now."""
    found: dict[str, str | int | float] = {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "load before": round(os.getloadavg()[0], 2),
    }
    for name in ("torch", "onnxruntime", "numba"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def merged(old: Cost | None, new: Cost) -> Cost:
    """Return the new record, with those files and times of the old one that were not measured again."""
    if old is None or (old.bytes_dense, old.nonzeros) != (new.bytes_dense, new.nonzeros):
        return new
    forms = {form.form: form for form in (*old.forms, *new.forms)}
    times = {(t.form, t.engine, t.threads, t.batch): t for t in (*old.latencies, *new.latencies)}
    known = {*forms, *(t.form for t in times.values())}
    refused = {what: why for what, why in old.refused.items() if what not in known} | new.refused
    return new.model_copy(
        update={"forms": list(forms.values()), "latencies": list(times.values()), "refused": refused}
    )
