"""How fast a recipe trains on this machine, and how far that is from what the machine can do."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from hedgerow.bench.counting import Convolutions, Flops
from hedgerow.data import AnySplit, Dataset
from hedgerow.doctor import this_machine
from hedgerow.files import write_json
from hedgerow.pipeline import dataset_of, device_of, model_of, objective_of
from hedgerow.pruners import PRUNERS, Dense, FixedMask, Pruner
from hedgerow.recipe import PhaseSection, Recipe, construct, own_options
from hedgerow.sparsity import Budget
from hedgerow.training import Listener, Plan, Setting, train
from hedgerow.training.precision import FABRIC, chosen_precision

PHASES = ("pretrain", "prune", "finetune")
_MATRIX = 2048  # rows of the product whose speed is taken for the machine's peak
_NAMED = 6  # operations that are named; the rest is one sum


@dataclass(frozen=True)
class PhaseSpeed:
    """One phase: medians over steps; FLOPs as PyTorch counts them, 2 per multiplication with its addition.

    `share_of_peak` compares with a matrix product in the phase's precision; `share_of_convolutions` is the time
    of the step's convolutions, each kind timed alone, over that of the step, None where it has none. `peak_bytes`
    is the most that the process had in the phase above what it had when images were loaded (on a GPU: what was
    allocated at most). `shares` of the time of one step, by operation.
    """

    phase: str
    precision: str
    seconds_per_step: float
    images_per_second: float
    flops_per_step: float
    flops_per_second: float
    share_of_peak: float
    share_of_convolutions: float | None
    peak_bytes: int
    shares: dict[str, float]


class Clock:
    """A listener that notes when every step has ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def start(self, *_: Any) -> None:
        """Note the beginning."""
        self.ends.append(time.perf_counter())

    def step(self, *_: Any) -> None:
        """Note the end of a step, when the device is done with it."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def epoch(self, *_: Any) -> None:
        """Nothing is noted per epoch."""

    def seconds(self) -> list[float]:
        """Return the time of every step but the first."""
        return [b - a for a, b in zip(self.ends[1:], self.ends[2:], strict=False)]

    def first(self) -> float:
        """Return the time of the first step."""
        return self.ends[1] - self.ends[0]

    def median(self) -> float:
        """Return the median of those times, the higher of two in the middle."""
        return statistics.median_high(self.seconds())


class Begin(Clock):
    """A clock that does something, such as to clear a counter, just before the first step."""

    def __init__(self, *then: Callable[[], None]) -> None:
        super().__init__()
        self.then = then

    def start(self, *_: Any) -> None:
        """Do it, and note the beginning."""
        for act in self.then:
            act()
        super().start()


def bench(recipe: Recipe, *, steps: int = 4, tell: Callable[[str], None] | None = None) -> list[PhaseSpeed]:
    """Train each phase of a recipe for `steps` steps and one to warm up, on its own data; return what that took.

    Nothing is written. A phase that trains nothing (0 epochs, or a method that learns nothing) is left out.
    """
    tell = tell or (lambda _: None)
    data = dataset_of(recipe)
    found, before = [], _resident()
    for name in PHASES:
        if name != "pretrain" and recipe.pruning is None:
            continue
        section: PhaseSection = getattr(recipe.phases, name)
        if section.epochs == 0 or not pruner_of(recipe, name, None).learns:
            continue
        tell(f"{name} ...")
        found.append(_speed(recipe, name, section, data, steps, before))
    return found


def bench_lines(found: list[PhaseSpeed]) -> list[str]:
    """Return what `bench` found, for a person."""
    lines = []
    for phase in found:
        speed = f"{phase.images_per_second:10.1f} images/s {phase.seconds_per_step * 1000:9.1f} ms a step"
        done = f"{phase.flops_per_second / 1e9:8.1f} GFLOP/s, {phase.share_of_peak:.0%} of a matrix product's"
        alone = phase.share_of_convolutions
        done += "" if alone is None else f", {alone:.0%} of its convolutions' alone"
        memory = f"{phase.peak_bytes / 2**20:,.0f} MiB"
        lines.append(f"{phase.phase:<9} {speed}   {done}, in {phase.precision}   {memory}")
        lines.append(" " * 10 + ", ".join(f"{name} {share:.0%}" for name, share in phase.shares.items()))
    return lines


def write_bench(found: list[PhaseSpeed], path: Path) -> Path:
    """Write what `bench` found, and on which machine, as JSON."""
    return write_json(path, {"machine": this_machine(), "phases": [asdict(phase) for phase in found]})


def matmul_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Return the FLOP/s of the best of ten products of two square matrices of 2,048 rows."""
    a = torch.randn(_MATRIX, _MATRIX, device=device).to(dtype)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2.0 * _MATRIX**3 / best


def _speed(recipe: Recipe, name: str, section: PhaseSection, data: Dataset, steps: int, before: int) -> PhaseSpeed:
    device = device_of(recipe)
    precision = chosen_precision(recipe.precision, device)
    with _growth(device, before) as grown:
        clock = timed(recipe, name, section, data, steps)
    plain = recipe.model_copy(update={"compile": False})  # what is computed is the same
    with Flops() as counter, Convolutions() as convolutions:
        timed(plain, name, section, data, 0, Begin(counter.clear, convolutions.clear))
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        timed(recipe, name, section, data, 0)
    batch = min(section.batch_size, len(data.train))
    seconds, flops = clock.median(), counter.total
    peak = matmul_peak(torch.bfloat16 if precision == "bf16" else torch.float32, device)
    return PhaseSpeed(
        phase=name,
        precision=precision,
        seconds_per_step=seconds,
        images_per_second=batch / seconds,
        flops_per_step=flops,
        flops_per_second=flops / seconds,
        share_of_peak=flops / seconds / peak,
        share_of_convolutions=convolutions.alone() / seconds if convolutions.seen else None,
        peak_bytes=grown[0],
        shares=_shares({event.key: event.self_cpu_time_total for event in profiler.key_averages()}),
    )


def timed(
    recipe: Recipe, name: str, section: PhaseSection, data: Dataset, steps: int, *listeners: Listener
) -> Clock:
    """Train a fresh network for `steps` steps after a first one."""
    device, clock = device_of(recipe), Clock()
    model = model_of(recipe, data).to(device)
    section = section.model_copy(update={"epochs": 1, "reuse": None, "select": "last"})
    batch = min(section.batch_size, len(data.train))
    split = _repeated(data.train, batch * (steps + 1))
    pruner = pruner_of(recipe, name, model)
    objective, _ = objective_of(section.objective or recipe.objective, recipe.threat.build())
    fields = section.model_dump(exclude={"objective", "reuse"})
    setting = Setting(
        seed=recipe.seed,
        phase=name,
        precision=FABRIC[chosen_precision(recipe.precision, device)],
        accelerator=device.type,
        channels_last=recipe.channels_last,
        compile=recipe.compile,
        recompute=recipe.recompute,
        # A few steps stand for a whole phase, which would be long enough.
        sparse_crafting="on" if recipe.sparse_crafting == "auto" else recipe.sparse_crafting,
        listeners=(clock, *listeners),
    )
    plan = replace(Plan(**fields, augment=tuple(recipe.data.augment)), batch_size=batch)
    train(model, split, objective, plan=plan, pruner=pruner, budget=_budget(recipe, name), setting=setting)
    return clock


def _repeated(split: AnySplit, count: int) -> AnySplit:
    return split.select(torch.arange(count) % len(split))


def _budget(recipe: Recipe, name: str) -> Budget:
    section = recipe.pruning
    return Budget(0) if section is None or name == "pretrain" else Budget(section.sparsity, section.distribution)


def pruner_of(recipe: Recipe, name: str, model: nn.Module | None) -> Pruner:
    """Return the pruner of a phase; for fine-tuning with masks of the weights as they are, if there is a model."""
    if recipe.pruning is None or name == "pretrain":
        return Dense()
    part, context = PRUNERS[recipe.pruning.method], {"seed": recipe.seed, "threat": recipe.threat.build()}
    method: Pruner = construct(part, own_options(recipe.pruning), **context)
    if name == "prune":
        return method
    if model is None:
        return FixedMask({})
    plain: Pruner = PRUNERS["magnitude"]()
    plain.attach(model, _budget(recipe, name))
    return FixedMask(plain.finish())


def _shares(times: dict[str, float]) -> dict[str, float]:
    total = sum(times.values()) or 1.0
    first = sorted(times, key=lambda key: -times[key])[:_NAMED]
    shares = {key.removeprefix("aten::"): times[key] / total for key in first}
    return {**shares, "everything else": 1.0 - sum(shares.values())}


@contextmanager
def _growth(device: torch.device, before: int) -> Iterator[list[int]]:
    """Yield a list whose one entry is, on leaving, by how many bytes the process was above `before` at most."""
    grown = [0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        yield grown
        grown[0] = torch.cuda.max_memory_allocated()
        return
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.005):
            grown[0] = max(grown[0], _resident() - before)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield grown
    finally:
        done.set()
        watcher.join()


def _resident() -> int:
    """Return the bytes of this process that are in memory; 0 where the system does not say."""
    place = Path("/proc/self/statm")
    return int(place.read_text(encoding="ascii").split()[1]) * 4096 if place.exists() else 0
