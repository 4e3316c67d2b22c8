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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from hedgerow.data import Dataset, Split
from hedgerow.doctor import this_machine
from hedgerow.files import write_json
from hedgerow.pipeline import dataset_of, device_of, model_of, objective_of
from hedgerow.pruners import PRUNERS, Dense, FixedMask, Pruner
from hedgerow.recipe import PhaseSection, Recipe, apply, construct, own_options, parse_recipe
from hedgerow.sparsity import Budget
from hedgerow.training import Plan, Setting, train
from hedgerow.training.precision import FABRIC, chosen_precision, native_bf16

PHASES = ("pretrain", "prune", "finetune")
_MATRIX = 2048  # rows of the product whose speed is taken for the machine's peak
_NAMED = 6  # operations that are named; the rest is one sum


@dataclass(frozen=True)
class PhaseSpeed:
    """One phase: medians over steps; FLOPs as PyTorch counts them, 2 per multiplication with its addition.

    `share_of_peak` compares with a matrix product in the phase's precision; `peak_bytes` is the most that
    the process had in the phase above what it had when images were loaded (on a GPU: what was allocated at most).
    `shares` of the time of one step, by operation.
    """

    phase: str
    precision: str
    seconds_per_step: float
    images_per_second: float
    flops_per_step: float
    flops_per_second: float
    share_of_peak: float
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

    def median(self) -> float:
        """Return the median of those times, the higher of two in the middle."""
        return statistics.median_high(self.seconds())


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
        if section.epochs == 0 or not _pruner(recipe, name, None).learns:
            continue
        tell(f"{name} ...")
        found.append(_speed(recipe, name, section, data, steps, before))
    return found


def tune(recipe: Recipe, *, steps: int = 3, tell: Callable[[str], None] | None = None) -> list[tuple[str, float]]:
    """Return the seconds per step of the recipe's dearest phase under each setting, the fastest first.

    Settings are those that change speed and not the method: memory format and, where the machine multiplies bf16,
    precision. They take turns, twice, so that a machine that is busy for a while is unfair to none.
    """
    tell = tell or (lambda _: None)
    data, device = dataset_of(recipe), device_of(recipe)
    precisions = ["float32", *(["bf16"] if native_bf16(device) else [])]
    choices = [{"channels_last": last, "precision": kind} for kind in precisions for last in (False, True)]
    phase = "prune" if recipe.pruning is not None and _pruner(recipe, "prune", None).learns else "pretrain"
    times: dict[str, list[float]] = {}
    for _ in range(2):
        for choice in choices:
            text = " ".join(f"--set {key}={str(value).lower()}" for key, value in choice.items())
            tell(f"{phase} {text} ...")
            changed = parse_recipe(apply(recipe.dump(), choice))
            clock = _timed(changed, phase, getattr(changed.phases, phase), data, steps)
            times.setdefault(text, []).append(clock.median())
    return sorted(((text, min(found)) for text, found in times.items()), key=lambda pair: pair[1])


def bench_lines(found: list[PhaseSpeed]) -> list[str]:
    """Return what `bench` found, for a person."""
    lines = []
    for phase in found:
        speed = f"{phase.images_per_second:10.1f} images/s {phase.seconds_per_step * 1000:9.1f} ms a step"
        done = f"{phase.flops_per_second / 1e9:8.1f} GFLOP/s, {phase.share_of_peak:.0%} of a matrix product's"
        memory = f"{phase.peak_bytes / 2**20:,.0f} MiB"
        lines.append(f"{phase.phase:<9} {speed}   {done} in {phase.precision}   {memory}")
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
        clock = _timed(recipe, name, section, data, steps)
    with _Flops() as counter:
        _timed(recipe, name, section, data, 0)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        _timed(recipe, name, section, data, 0)
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
        peak_bytes=grown[0],
        shares=_shares({event.key: event.self_cpu_time_total for event in profiler.key_averages()}),
    )


def _timed(recipe: Recipe, name: str, section: PhaseSection, data: Dataset, steps: int) -> Clock:
    """Train a fresh network for `steps` steps after a first one."""
    device, clock = device_of(recipe), Clock()
    model = model_of(recipe, data).to(device)
    section = section.model_copy(update={"epochs": 1, "reuse": None, "select": "last"})
    batch = min(section.batch_size, len(data.train))
    split = _repeated(data.train, batch * (steps + 1))
    pruner = _pruner(recipe, name, model)
    objective, _ = objective_of(section.objective or recipe.objective, recipe.threat.build())
    fields = section.model_dump(exclude={"objective", "reuse"})
    setting = Setting(
        seed=recipe.seed,
        phase=name,
        precision=FABRIC[chosen_precision(recipe.precision, device)],
        accelerator=device.type,
        channels_last=recipe.channels_last,
        listeners=(clock,),
    )
    plan = replace(Plan(**fields, augment=tuple(recipe.data.augment)), batch_size=batch)
    train(model, split, objective, plan=plan, pruner=pruner, budget=_budget(recipe, name), setting=setting)
    return clock


def _repeated(split: Split, count: int) -> Split:
    return split.select(torch.arange(count) % len(split))


def _budget(recipe: Recipe, name: str) -> Budget:
    section = recipe.pruning
    return Budget(0) if section is None or name == "pretrain" else Budget(section.sparsity, section.distribution)


def _pruner(recipe: Recipe, name: str, model: nn.Module | None) -> Pruner:
    """Return the pruner of a phase; for fine-tuning with masks of the weights as they are, if there is a model."""
    if recipe.pruning is None or name == "pretrain":
        return Dense()
    method: Pruner = construct(PRUNERS[recipe.pruning.method], own_options(recipe.pruning), seed=recipe.seed)
    if name == "prune":
        return method
    if model is None:
        return FixedMask({})
    plain: Pruner = PRUNERS["magnitude"]()
    plain.attach(model, _budget(recipe, name))
    return FixedMask(plain.finish())


class _Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count FLOPs by PyTorch's formulas; its own counter does not work with `autograd.grad`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


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
