"""The one training loop. Dense training, pruning and fine-tuning differ only in the pruner they are given."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hedgerow.data import Split, epoch_batches, steps_per_epoch
from hedgerow.errors import NumericsError
from hedgerow.objectives import Objective
from hedgerow.pruners import Dense, Progress, Pruner
from hedgerow.seeds import derive, generator
from hedgerow.sparsity import Budget, Masks, shared_weights, sparse_view
from hedgerow.training.plan import Plan, all_finite, build_optimizer, learning_rate, set_learning_rate
from hedgerow.training.state import CheckpointFiles, Standing, load_best, load_state, save_best, save_state

Metrics = dict[str, Any]
_LOOK_FOR_NAN_EVERY = 50  # steps, on a device where looking means waiting for it


class Listener(Protocol):
    """Whoever wants to know how training goes: a log, a progress bar."""

    def start(self, phase: str, plan: Plan, standing: Standing, steps: int) -> None:
        """A phase starts, or goes on at `standing`; each epoch has `steps` steps."""

    def step(self, progress: Progress, images: int, loss: Tensor) -> None:
        """An optimiser step was taken on `images` images."""

    def epoch(self, metrics: Metrics) -> None:
        """An epoch has ended and was validated."""


@dataclass(kw_only=True)
class Setting:
    """Where and how a phase runs. `validate(model)` returns `clean` and `robust` validation accuracy, 0 to 1."""

    seed: int = 0
    phase: str = "train"
    folder: Path | None = None
    precision: str = "32-true"
    accelerator: str = "auto"
    channels_last: bool = False
    save_every: float = 300.0
    validate: Callable[[nn.Module], dict[str, float]] | None = None
    listeners: tuple[Listener, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """A finished phase: the masks, what was selected, and what it took."""

    masks: Masks
    epochs: int
    seconds: float = 0.0
    images: int = 0
    selected_epoch: int | None = None


@dataclass
class _Run:
    """The moving parts of one phase."""

    model: nn.Module
    wrapped: nn.Module
    optimizer: Optimizer
    stepper: Any
    fabric: Any
    standing: Standing
    sums: dict[str, Tensor] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)


def train(
    model: nn.Module,
    split: Split,
    objective: Objective,
    *,
    plan: Plan,
    pruner: Pruner | None = None,
    budget: Budget | None = None,
    setting: Setting | None = None,
) -> Outcome:
    """Train `model` on `split` and return the masks; the model is left plain, with exact zeros baked in.

    With a folder in `setting` the phase is checkpointed at every epoch end and every `save_every` seconds, and
    goes on from there, bit for bit, when called again. Raises `NumericsError` when the loss is no longer a
    number (the last good checkpoint stays), `CheckpointError` for a broken or foreign checkpoint.
    """
    setting = setting or Setting()
    pruner = pruner or Dense()
    pruner.attach(model, budget or Budget(0))  # hook 1
    if plan.epochs == 0 or not pruner.learns:
        return Outcome(pruner.finish(), 0)
    files = CheckpointFiles(setting.folder, setting.phase)
    steps = steps_per_epoch(len(split), plan.batch_size)
    run = _prepare(model, pruner, plan, setting)
    split = split.to(run.fabric.device)
    with torch.random.fork_rng():
        run.standing = load_state(files, model, run.optimizer, pruner) or run.standing
        for listener in setting.listeners:
            listener.start(setting.phase, plan, run.standing, steps)
        while run.standing.epoch < plan.epochs:
            _epoch(run, split, objective, pruner, plan, setting, files)
            _close_epoch(run, plan, setting, files, pruner)
    if plan.select == "best" and run.standing.best_epoch >= 0:
        load_best(files, model, run.memory)
        selected = run.standing.best_epoch
    else:
        selected = plan.epochs - 1
    masks = pruner.finish()  # hook 6
    return Outcome(masks, plan.epochs, run.standing.seconds, run.standing.images, selected + 1)


def _prepare(model: nn.Module, pruner: Pruner, plan: Plan, setting: Setting) -> _Run:
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator=setting.accelerator, devices=1, precision=setting.precision)  # type: ignore[arg-type]
    if setting.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.to(fabric.device)
    optimizer = build_optimizer(pruner.parameters(), plan)  # hook 2
    wrapped, stepper = fabric.setup(model, optimizer)
    return _Run(model, wrapped, optimizer, stepper, fabric, Standing())


def _epoch(
    run: _Run,
    split: Split,
    objective: Objective,
    pruner: Pruner,
    plan: Plan,
    setting: Setting,
    files: CheckpointFiles,
) -> None:
    standing, phase = run.standing, setting.phase
    steps = steps_per_epoch(len(split), plan.batch_size)
    run.sums = {k: torch.tensor(v, dtype=torch.float64, device=split.device) for k, v in standing.sums.items()}
    run.model.train()
    batches = epoch_batches(
        split,
        batch_size=plan.batch_size,
        seed=derive(setting.seed, phase),
        epoch=standing.epoch,
        augment=plan.augment,
        start=standing.step,
    )
    saved = time.monotonic()
    for x, y in batches:
        with _timed(standing):
            progress = Progress(standing.epoch, plan.epochs, standing.step, steps)
            place = (phase, standing.epoch, standing.step)
            torch.manual_seed(derive(setting.seed, "model", *place))
            dice = generator(setting.seed, "objective", *place, device=split.device)
            if setting.channels_last and x.dim() == 4:
                x = x.contiguous(memory_format=torch.channels_last)  # noqa: PLW2901
            set_learning_rate(run.optimizer, learning_rate(plan, progress.fraction - 1 / (plan.epochs * steps)))
            loss = _step(run, objective, pruner, x, y, dice)
            pruner.after_step(progress)  # hook 5
            standing.step += 1
            standing.images += len(x)
        if split.device.type == "cpu" or progress.epoch_ends or standing.step % _LOOK_FOR_NAN_EVERY == 0:
            _refuse_nan(run, plan, phase, files)
        for listener in setting.listeners:
            listener.step(progress, len(x), loss)
        if time.monotonic() - saved > setting.save_every and not progress.epoch_ends and all_finite(run.model):
            standing.sums = {name: value.item() for name, value in run.sums.items()}
            save_state(files, run.model, run.optimizer, pruner, standing)
            saved = time.monotonic()


def _step(run: _Run, objective: Objective, pruner: Pruner, x: Tensor, y: Tensor, dice: torch.Generator) -> Tensor:
    run.optimizer.zero_grad(set_to_none=True)
    with shared_weights(run.model):  # every effective weight is computed here, once
        with run.fabric.autocast():
            loss, scalars = objective(run.wrapped, x, y, dice)
        penalty = pruner.penalty()  # hook 3
        total = loss if penalty is None else loss + penalty
        run.fabric.backward(total)
    pruner.after_backward()  # hook 4
    run.stepper.step()
    logged = {"loss": total.detach(), **scalars, "images": torch.ones_like(total.detach())}
    for name, value in logged.items():
        weighted = value.double() * len(x)
        run.sums[name] = run.sums[name] + weighted if name in run.sums else weighted
    return total.detach()


def _refuse_nan(run: _Run, plan: Plan, phase: str, files: CheckpointFiles) -> None:
    if run.sums["loss"].isfinite():
        return
    raise _numerics_error(run, plan, phase, files, "the loss is not a number")


def _numerics_error(run: _Run, plan: Plan, phase: str, files: CheckpointFiles, what: str) -> NumericsError:
    kept = next((p for p in (files.last, files.previous) if p is not None and p.exists()), None)
    return NumericsError(
        f"phase {phase}, epoch {run.standing.epoch + 1} of {plan.epochs}, step {run.standing.step}: {what} "
        f"(learning rate {run.optimizer.param_groups[0]['lr']:.3g}). "
        + (f"The last good checkpoint is {kept}. " if kept else "No checkpoint was written yet. ")
        + f"Lower phases.{phase}.lr, or train in float32 (precision: float32)"
    )


def _close_epoch(run: _Run, plan: Plan, setting: Setting, files: CheckpointFiles, pruner: Pruner) -> None:
    standing = run.standing
    sums = {name: value.item() for name, value in run.sums.items()}
    images = sums.pop("images")
    metrics: Metrics = {
        "phase": setting.phase,
        "epoch": standing.epoch + 1,
        "epochs": plan.epochs,
        **{name: value / images for name, value in sums.items()},
        "lr": run.optimizer.param_groups[0]["lr"],
        "images_per_second": images / max(standing.epoch_seconds, 1e-9),
        "seconds": standing.epoch_seconds,
    }
    if not all_finite(run.model):
        what = "a weight is NaN or infinite although the loss is not"
        raise _numerics_error(run, plan, setting.phase, files, what)
    if setting.validate is not None:
        with torch.no_grad(), sparse_view(run.model):
            scores = setting.validate(run.model)
        metrics.update(scores)
        if scores["robust"] > standing.best_score:
            standing.best_score, standing.best_epoch = scores["robust"], standing.epoch
            if plan.select == "best":
                save_best(files, run.model, run.memory)
    standing.epoch += 1
    standing.step, standing.sums, standing.epoch_seconds = 0, {}, 0.0
    for listener in setting.listeners:
        listener.epoch(metrics)
    save_state(files, run.model, run.optimizer, pruner, standing)


@contextmanager
def _timed(standing: Standing) -> Iterator[None]:
    before = time.monotonic()
    yield
    spent = time.monotonic() - before
    standing.seconds += spent
    standing.epoch_seconds += spent
