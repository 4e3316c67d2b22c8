"""The one training loop. Dense training, pruning and fine-tuning differ only in the pruner they are given."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hedgerow.data import AnySplit, batch_length, epoch_batches, steps_per_epoch, worker_errors
from hedgerow.errors import ModelError, NumericsError
from hedgerow.objectives import Objective, replays_of, tell_progress
from hedgerow.pruners import Dense, Progress, Pruner
from hedgerow.seeds import derive, generator
from hedgerow.sparsity import Budget, shared_weights, sparse_view
from hedgerow.team import Team, team, working_on
from hedgerow.training.alarm import describe_collapse, has_collapsed
from hedgerow.training.average import Average
from hedgerow.training.cheaper import cheaper_crafting
from hedgerow.training.compiling import Call, compiled_call, computed_by
from hedgerow.training.plan import Plan, all_finite, build_optimizer, learning_rate, set_learning_rate
from hedgerow.training.recompute import Stage, recomputing, stages_for
from hedgerow.training.setting import Metrics, Outcome, Setting
from hedgerow.training.sharing import agree, check_shares, fabric_for
from hedgerow.training.state import (
    CheckpointFiles,
    Parts,
    Standing,
    load_best,
    load_state,
    save_best,
    save_state,
)
from hedgerow.training.sync_norm import synced_norms

_LOOK_EVERY = 50  # steps, on a device where looking at a number means waiting for it


@dataclass
class _Run(Parts):
    """The parts of one phase, where it stands, and what it is trained with."""

    wrapped: nn.Module = field(kw_only=True)
    stepper: Any = field(kw_only=True)
    fabric: Any = field(kw_only=True)
    plan: Plan = field(kw_only=True)
    setting: Setting = field(kw_only=True)
    files: CheckpointFiles = field(kw_only=True)
    steps: int = field(kw_only=True)
    team: Team = field(kw_only=True)
    call: Call | None = field(kw_only=True)
    stages: list[Stage] = field(kw_only=True)
    standing: Standing = field(default_factory=Standing)
    sums: dict[str, Tensor] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)


def train(
    model: nn.Module,
    split: AnySplit,
    objective: Objective,
    *,
    plan: Plan,
    pruner: Pruner | None = None,
    budget: Budget | None = None,
    setting: Setting | None = None,
) -> Outcome:
    """Train `model` on `split` and return the masks; the model is left plain, with exact zeros baked in.

    An epoch takes `replays` optimiser steps on every batch, 1 unless the objective says otherwise; all of them
    count for the learning rate and for the pruner. With a folder in `setting` the phase is checkpointed at every
    epoch end and every `save_every` seconds, and goes on from there, bit for bit, when called again. Raises
    `NumericsError` when the loss is no longer a number (the last good checkpoint stays), `CheckpointError` for a
    broken or foreign checkpoint, `ModelError` for an average of weights (`plan.ema`) whose masks move, a
    network that does not `compile`, weights perturbed under `recompute`; `MissingPackageError` with no compiler.
    """
    setting = setting or Setting()
    pruner = pruner or Dense()
    if plan.ema is not None and pruner.learns and not pruner.averages:
        raise ModelError(
            f"{type(pruner).__name__} moves its masks while it trains, and the average of networks with different "
            "masks is none of them: leave ema out of this phase"
        )
    example = split.take(pruner.images, setting.seed).pixels()
    pruner.attach(model, budget or Budget(0), example=example)  # hook 1
    if plan.epochs == 0 or not pruner.learns:
        return Outcome(pruner.finish(), 0)
    run = _prepare(model, split, objective, pruner, plan, setting)
    split = split.to(run.fabric.device)
    cheaper = cheaper_crafting(model, split, objective, budget or Budget(0), plan, setting=setting)
    with torch.random.fork_rng(), cheaper:
        run.standing = load_state(run.files, run) or run.standing
        for listener in setting.listeners:
            listener.start(setting.phase, plan, run.standing, run.steps)
        while run.standing.epoch < plan.epochs:
            with worker_errors():
                _epoch(run, split)
            _close_epoch(run)
    selected = _select(run)
    run.team.follow_first(list(model.state_dict().values()))
    masks = pruner.finish()  # hook 6
    standing = run.standing
    alarm = standing.alarm_epoch + 1 if standing.alarm_epoch >= 0 else None
    return Outcome(masks, plan.epochs, standing.seconds, standing.images, selected + 1, alarm)


def _prepare(
    model: nn.Module, split: AnySplit, objective: Objective, pruner: Pruner, plan: Plan, setting: Setting
) -> _Run:
    members = team()
    check_shares(members, len(split), plan.batch_size, objective)
    fabric = fabric_for(setting)
    if setting.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.to(fabric.device)
    optimizer = build_optimizer(pruner.parameters(), plan)  # hook 2
    wrapped, stepper = fabric.setup(model, optimizer)
    return _Run(
        model,
        optimizer,
        pruner,
        objective,
        None if plan.ema is None else Average(model, plan.ema),
        wrapped=wrapped,
        stepper=stepper,
        fabric=fabric,
        plan=plan,
        setting=setting,
        files=CheckpointFiles(setting.folder, setting.phase),
        steps=steps_per_epoch(len(split), plan.batch_size) * replays_of(objective),
        team=members,
        call=compiled_call(model, fabric.device) if setting.compile else None,
        stages=stages_for(model, split, objective, fabric.device) if setting.recompute else [],
    )


def _select(run: _Run) -> int:
    """Leave the model as it is to be handed over; return the epoch, from 0, it is of."""
    run.team.wait()  # until the best state is on disk
    if run.plan.select == "best" and run.standing.best_epoch >= 0:
        load_best(run.files, run.model, run.memory)
        return run.standing.best_epoch
    if run.average:
        run.average.give(run.model)
    return run.plan.epochs - 1


def _epoch(run: _Run, split: AnySplit) -> None:
    standing, plan, setting, phase = run.standing, run.plan, run.setting, run.setting.phase
    run.sums = {k: torch.tensor(v, dtype=torch.float64, device=split.device) for k, v in standing.sums.items()}
    run.model.train()
    taken, replayed = divmod(standing.step, replays_of(run.objective))
    batches = epoch_batches(
        split,
        batch_size=plan.batch_size,
        seed=derive(setting.seed, phase),
        epoch=standing.epoch,
        augment=plan.augment,
        start=taken,
        part=run.team.part,
    )
    saved = time.monotonic()
    for x, y in _replays(standing, batches, replays_of(run.objective), replayed):
        count = batch_length(len(split), plan.batch_size, standing.step // replays_of(run.objective))
        with standing.timed():
            progress = Progress(standing.epoch, plan.epochs, standing.step, run.steps)
            place = (phase, standing.epoch, standing.step)
            torch.manual_seed(derive(setting.seed, "model", *place, *run.team.own_place))
            dice = generator(setting.seed, "objective", *place, device=split.device)
            if setting.channels_last and x.dim() == 4:
                x = x.contiguous(memory_format=torch.channels_last)  # noqa: PLW2901
            done = progress.fraction - 1 / (plan.epochs * run.steps)
            set_learning_rate(run.optimizer, learning_rate(plan, done))
            tell_progress(run.objective, done)
            due = time.monotonic() - saved > setting.save_every
            loss, save = _step(run, x, y, dice, due, count)
            run.pruner.after_step(progress)  # hook 5
            if run.average:
                run.average.update(run.model)
            standing.step += 1
            standing.images += count
        looking = split.device.type == "cpu" or progress.epoch_ends or standing.step % _LOOK_EVERY == 0
        if looking:
            _refuse_nan(run)
        for listener in setting.listeners:
            listener.step(progress, count, loss)
        if looking and save and not progress.epoch_ends and all_finite(run.model):
            standing.sums = {name: value.item() for name, value in run.sums.items()}
            save_state(run.files, run, standing)
            saved = time.monotonic()


def _replays(
    standing: Standing, batches: Iterator[tuple[Tensor, Tensor]], times: int, done: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every batch `times` times in a row, the first `done` times less; waiting for one is training time."""
    while True:
        with standing.timed():
            batch = next(batches, None)
        if batch is None:
            return
        yield from itertools.repeat(batch, times - done)
        done = 0


def _step(
    run: _Run, x: Tensor, y: Tensor, dice: torch.Generator, due: bool, count: int
) -> tuple[Tensor, bool | Tensor]:
    """Take one optimiser step on this process's part of `count` images; return the loss and whether to save."""
    part = run.team.part(count)
    run.optimizer.zero_grad(set_to_none=True)
    call = run.call if count == run.plan.batch_size else None  # a smaller last one is not worth a program
    synced = synced_norms(run.model, run.team) if run.setting.sync_bn else nullcontext()
    how = computed_by(run.model, call), recomputing(run.model, run.stages), synced, working_on(part, count)
    with ExitStack() as stack:
        for context in (*how, shared_weights(run.model)):  # every effective weight is computed here, once
            stack.enter_context(context)
        with run.fabric.autocast():
            loss, scalars = run.objective(run.wrapped, x, y, dice)
        penalty = run.pruner.penalty()  # hook 3
        shared = loss * (len(x) * run.team.world / count)
        run.fabric.backward(shared if penalty is None else shared + penalty)
    total = loss.detach() if penalty is None else (loss + penalty).detach()
    logged = {"loss": total, **scalars, "images": torch.ones_like(total)}
    values = {name: value.double() * len(x) for name, value in logged.items()}
    values["save"] = torch.full_like(values["loss"], float(due and run.team.first))
    agree(run.team, run.model, run.optimizer, list(values.values()))
    run.pruner.after_backward()  # hook 4
    run.stepper.step()
    save = values.pop("save")
    for name, value in values.items():
        run.sums[name] = run.sums[name] + value if name in run.sums else value
    return (values["loss"] / count).to(total.dtype), due if run.team.world == 1 else save


def _refuse_nan(run: _Run) -> None:
    if run.sums["loss"].isfinite():
        return
    raise _numerics_error(run, "the loss is not a number")


def _numerics_error(run: _Run, what: str) -> NumericsError:
    phase, files = run.setting.phase, run.files
    kept = next((p for p in (files.last, files.previous) if p is not None and p.exists()), None)
    return NumericsError(
        f"phase {phase}, epoch {run.standing.epoch + 1} of {run.plan.epochs}, step {run.standing.step}: {what} "
        f"(learning rate {run.optimizer.param_groups[0]['lr']:.3g}). "
        + (f"The last good checkpoint is {kept}. " if kept else "No checkpoint was written yet. ")
        + f"Lower phases.{phase}.lr, or train in float32 (precision: float32)"
    )


def _close_epoch(run: _Run) -> None:
    standing = run.standing
    sums = {name: value.item() for name, value in run.sums.items()}
    images = sums.pop("images")
    metrics: Metrics = {
        "phase": run.setting.phase,
        "epoch": standing.epoch + 1,
        "epochs": run.plan.epochs,
        **{name: value / images for name, value in sums.items()},
        "lr": run.optimizer.param_groups[0]["lr"],
        "images_per_second": images / max(standing.epoch_seconds, 1e-9),
        "seconds": standing.epoch_seconds,
    }
    if not all_finite(run.model):
        raise _numerics_error(run, "a weight is NaN or infinite although the loss is not")
    _validate(run, metrics)
    standing.epoch += 1
    standing.step, standing.sums, standing.epoch_seconds = 0, {}, 0.0
    for listener in run.setting.listeners:
        listener.epoch(metrics)
    save_state(run.files, run, standing)


def _validate(run: _Run, metrics: Metrics) -> None:
    """Add validation scores and, where there is reason, an alarm; keep the model if it is the best so far."""
    standing = run.standing
    if run.setting.validate is None:
        return
    with run.average.shown(run.model) if run.average else nullcontext():
        with torch.no_grad(), sparse_view(run.model):
            scores = run.setting.validate(run.model)
        metrics.update(scores)
        best = standing.best_score if standing.best_epoch >= 0 else None
        if scores["robust"] > standing.best_score:  # the same everywhere: weights and images are
            standing.best_score, standing.best_epoch = scores["robust"], standing.epoch
            if run.plan.select == "best":
                save_best(run.files, run.model, run.memory)
    if "attacked_accuracy" not in metrics:
        return
    seen = (metrics["attacked_accuracy"], scores["robust"], best)
    if has_collapsed(*seen):
        metrics["alarm"] = describe_collapse(*seen)
        standing.alarm_epoch = standing.epoch if standing.alarm_epoch < 0 else standing.alarm_epoch
