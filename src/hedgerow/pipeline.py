"""The phases of a run in their order: pretrain, prune, fine-tune, evaluate, report; each is done once."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hedgerow.data import Dataset, StreamedSplit, load_dataset
from hedgerow.description import describe
from hedgerow.errors import CheckpointError
from hedgerow.evaluation import check_verifiable, quick_accuracy
from hedgerow.files import write_tensors
from hedgerow.measuring import Bench, evaluate_model, sensitivity_of
from hedgerow.models import build_model
from hedgerow.objectives import OBJECTIVES, Objective
from hedgerow.pruners import PRUNERS, Dense, FixedMask, Pruner
from hedgerow.recipe import ObjectiveSection, PhaseSection, PruningSection, Recipe, construct, own_options
from hedgerow.result import PhaseRecord, Result, load_result
from hedgerow.runfolder import RunFolder, load_weights
from hedgerow.sparsity import Budget, Masks, prunable_weights
from hedgerow.team import team
from hedgerow.threat import ThreatModel
from hedgerow.training import Display, MetricsFile, Plan, Setting, open_logs, train
from hedgerow.training.precision import FABRIC, chosen_precision, emulated


def run_one(recipe: Recipe, path: Path, *, command: str = "", dataset: Dataset | None = None) -> Result:
    """Carry out a recipe without a grid in the folder `path`, from wherever it stands; return its result.

    Data, model and recipe are checked before anything is computed. A finished run is returned as it is.
    """
    folder = RunFolder(path)
    if folder.holds(recipe) and folder.result.exists():
        return load_result(folder.result)
    bench, model = set_up(recipe, path, dataset)
    with contextlib.closing(bench.display):
        records, masks = run_phases(bench, model)
    write_tensors(folder.model, model.state_dict())
    write_tensors(folder.masks, {name: mask.to(torch.uint8) for name, mask in masks.items()})
    team().wait()
    result = describe(recipe, bench.dataset, model, records, weights=folder.model, command=command)
    result.evaluation = evaluate_model(bench, model).record
    result.sensitivity = sensitivity_of(bench, model)
    result.save(folder.result)
    team().wait()  # the next run may read what this one wrote
    return result


def set_up(recipe: Recipe, path: Path, dataset: Dataset | None = None) -> tuple[Bench, nn.Module]:
    """Load the data, build the network, and only then, when both are sound, open the run folder."""
    folder = RunFolder(path)
    folder.holds(recipe)
    data = dataset or dataset_of(recipe)
    check_room(recipe, data)
    model = model_of(recipe, data)
    check_bounds(recipe, model, data)
    check_pruner(recipe, model, data)
    logs = open_logs(recipe.log, path, metrics=folder.metrics, settings=recipe.dump())
    folder.open(recipe)
    bench = Bench(recipe, folder, data, recipe.threat.build(), device_of(recipe), Display(recipe.name), logs)
    if warning := emulated(recipe.precision, bench.device):
        bench.display.say(f"{recipe.name} {warning}")
    return bench, model


def check_room(recipe: Recipe, data: Dataset) -> None:
    """Raise `DataError` when validation or evaluation would decode more streamed images than memory allows."""
    examples = recipe.evaluation.examples or len(data.test)
    for split, count, what, key in (
        (data.validation, len(data.validation), "validation", "data.validation"),
        (data.test, min(examples, len(data.test)), "evaluation", "evaluation.examples"),
    ):
        if isinstance(split, StreamedSplit):
            split.check_room(count, f"{what} of {count:,} images", f"set {key} lower, or data.memory higher")


def check_bounds(recipe: Recipe, model: nn.Module, data: Dataset) -> None:
    """Raise `ModelError` when the recipe verifies and bounds do not cover the network."""
    if recipe.evaluation.verify:
        sample = data.validation.take(2, recipe.seed).pixels()
        check_verifiable(model, sample, method=recipe.evaluation.verify, threat=recipe.threat.build())


def check_pruner(recipe: Recipe, model: nn.Module, data: Dataset) -> None:
    """Raise `ModelError` when the recipe's method cannot decide on the network, as long as nothing is trained."""
    if recipe.pruning:
        pruner_of(recipe, recipe.pruning).check(model, data.validation.take(2, recipe.seed).pixels())


def pruner_of(recipe: Recipe, section: PruningSection) -> Pruner:
    """Return the method that a recipe's pruning section describes."""
    part, options = PRUNERS[section.method], own_options(section)
    pruner: Pruner = construct(part, options, seed=recipe.seed, threat=recipe.threat.build())
    return pruner


def pretrain_only(recipe: Recipe, path: Path, *, dataset: Dataset | None = None) -> None:
    """Carry out the dense training of a run and nothing more; other runs may then reuse it."""
    bench, model = set_up(recipe, path, dataset)
    with contextlib.closing(bench.display):
        run_phase(bench, model, "pretrain", recipe.phases.pretrain, Dense(), Budget(0))


def run_phases(bench: Bench, model: nn.Module) -> tuple[list[PhaseRecord], Masks]:
    """Run or reload the phases; the model ends plain and finished. Returns their records and the masks."""
    recipe, phases = bench.recipe, bench.recipe.phases
    budget = Budget(0)
    record, masks = reused_pretraining(bench, model) or run_phase(
        bench, model, "pretrain", phases.pretrain, Dense(), budget
    )
    records = [record]
    if recipe.pruning is None:
        return records, masks
    section = recipe.pruning
    budget = Budget(section.sparsity, section.distribution)
    pruner = pruner_of(recipe, section)
    steps: list[tuple[str, PhaseSection, Any]] = [
        ("prune", phases.prune, lambda _: pruner),
        ("finetune", phases.finetune, FixedMask),
    ]
    for name, phase, make in steps:
        record, masks = run_phase(bench, model, name, phase, make(masks), budget)
        records.append(record)
    return records, masks


def reused_pretraining(bench: Bench, model: nn.Module) -> tuple[PhaseRecord, Masks] | None:
    """Load the pretraining that the recipe reuses; None if it reuses none, `CheckpointError` if there is none."""
    reuse = bench.recipe.phases.pretrain.reuse
    if reuse is None:
        return None
    other = RunFolder(bench.folder.path / reuse)
    done = other.load_phase("pretrain", model)
    if done is None:
        raise CheckpointError(
            f"phases.pretrain.reuse = {reuse!r}: {other.path} has no finished pretraining; run that one first, or "
            "leave the key out"
        )
    return done


def run_phase(
    bench: Bench, model: nn.Module, name: str, phase: PhaseSection, pruner: Pruner, budget: Budget
) -> tuple[PhaseRecord, Masks]:
    """Train one phase to its end, or reload it; keep its outcome in the run folder."""
    recipe, folder = bench.recipe, bench.folder
    done = folder.load_phase(name, model)
    if done:
        return done
    objective, title = objective_of(phase.objective or recipe.objective, bench.threat)
    fields = phase.model_dump(exclude={"objective", "reuse"})
    plan = Plan(**fields, augment=tuple(recipe.data.augment))
    validation = bench.dataset.validation.resident().to(bench.device)
    pixels = validation.pixels()
    setting = Setting(
        seed=recipe.seed,
        phase=name,
        folder=folder.checkpoints,
        precision=FABRIC[chosen_precision(recipe.precision, bench.device)],
        accelerator=bench.device.type,
        channels_last=recipe.channels_last,
        sync_bn=recipe.sync_bn,
        compile=recipe.compile,
        recompute=recipe.recompute,
        sparse_crafting=recipe.sparse_crafting,
        validate=lambda m: quick_accuracy(m, pixels, validation.labels, threat=bench.threat, seed=recipe.seed),
        listeners=(MetricsFile(folder.metrics), bench.display, *bench.logs),
    )
    out = train(model, bench.dataset.train, objective, plan=plan, pruner=pruner, budget=budget, setting=setting)
    for remark in pruner.remarks:
        bench.display.say(f"{recipe.name} {name}: {remark}")
    record = PhaseRecord(
        name=name,
        epochs=out.epochs,
        seconds=out.seconds,
        images_per_second=out.images / max(out.seconds, 1e-9),
        objective=title,
        selected_epoch=out.selected_epoch,
        alarm_epoch=out.alarm_epoch,
    )
    folder.save_phase(record, model, out.masks)
    if team().first:
        for leftover in folder.checkpoints.glob(f"{name}-*.pt"):
            leftover.unlink()
    return record, out.masks


def dataset_of(recipe: Recipe) -> Dataset:
    """Load the recipe's data."""
    section = recipe.data
    return load_dataset(
        section.source,
        path=section.path,
        validation=section.validation,
        train_limit=section.train_limit,
        test_limit=section.test_limit,
        seed=recipe.seed,
        label=section.label,
        **own_options(section),
    )


def model_of(recipe: Recipe, data: Dataset, *, to_prune: bool = True) -> nn.Module:
    """Build the recipe's network for this data, with the user's weights where they are given.

    One that is not `to_prune` may have layers that cannot be, such as several with one tensor.
    """
    section = recipe.model
    model = build_model(
        section.name,
        num_classes=data.num_classes,
        channels=data.channels,
        image_size=data.image_size,
        mean=data.mean,
        std=data.std,
        factory=section.factory,
        normalize=section.normalize,
        seed=recipe.seed,
        options=section.options,
    )
    if to_prune:
        prunable_weights(model)
    if section.weights:
        load_weights(model, Path(section.weights))
    return model


def objective_of(section: ObjectiveSection, threat: ThreatModel) -> tuple[Objective, str]:
    """Return the objective of a section and its name with its options."""
    options = own_options(section)
    title = ", ".join([section.name, *(f"{key} {value}" for key, value in options.items())])
    return construct(OBJECTIVES[section.name], options, threat=threat), title


def device_of(recipe: Recipe) -> torch.device:
    """Return the device of a recipe; `auto` takes a GPU when there is one."""
    if recipe.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(recipe.device)  # of several processes each has made its own GPU the current one
