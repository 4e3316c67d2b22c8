"""Evaluation apart from a run: of a finished run folder again, or of whatever else holds a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hedgerow.attacks import crafting
from hedgerow.data import Dataset
from hedgerow.engines.modules import read_module
from hedgerow.engines.pytorch import read_network
from hedgerow.errors import CheckpointError, ModelError, RecipeError
from hedgerow.evaluation import Share
from hedgerow.files import read_tensors, write_text
from hedgerow.measuring import Bench, evaluate_model, sensitivity_of
from hedgerow.pipeline import check_bounds, dataset_of, device_of, model_of
from hedgerow.recipe import Recipe, apply, load_recipe, parse_recipe
from hedgerow.report import write_report
from hedgerow.result import Evaluation, load_result
from hedgerow.runfolder import RunFolder, load_weights, one_writer
from hedgerow.training import Display

EXPORTED = (".onnx", ".pt2")


def evaluate_target(
    target: Path | str,
    recipe: str | None,
    changes: Mapping[str, Any],
    out: Path | None,
    share: Share | None = None,
) -> Evaluation:
    """Return the evaluation of a run folder's network, of an exported file, of weights, or of a factory's network.

    `target` is a run folder; an `.onnx`, `.pt2` or sparse `.safetensors` file; a file of weights for the network
    that `recipe` describes; or `package.module:factory`, with `model.weights` among the changes. What is not a run
    takes data and threat from a recipe, or from the changes alone (`data.source`, `threat.eps`).

    A run folder's `result.json` and page are brought up to date; anything else gets a folder `NAME-evaluation`,
    and `out` a copy of the record. Finished batches are kept there. Raises `UnfinishedError` while shards are
    missing, `CheckpointError` for an unfinished run or unreadable weights, `RecipeError`, and `ModelError`.
    """
    share = share or Share()
    loaded = recipe_of(target, recipe, changes)
    result = load_result(Path(target)) if Path(target).is_dir() else None
    place = RunFolder(working_folder(target))
    data = dataset_of(loaded)
    model, device = network_of(target, loaded, data)
    check_answers(model, data, str(target))
    with one_writer(place.evaluation / str(share.shard)):
        bench = Bench(loaded, place, data, loaded.threat.build(), device, Display(loaded.name))
        record = evaluate_model(bench, model, share).record
        layers = None if "sensitivity" in record.refused else sensitivity_of(bench, model)
    text = record.model_dump_json(indent=1) + "\n"
    if result is not None:
        result.evaluation, result.sensitivity = record, layers or result.sensitivity
        result.save(place.result)
        write_report([place.path], place.report)
    else:
        write_text(place.path / "evaluation.json", text)
    if out is not None:
        write_text(out, text)
    return record


def recipe_of(target: Path | str, recipe: str | None, changes: Mapping[str, Any]) -> Recipe:
    """Return the recipe to evaluate `target` under, with its changes; `RecipeError` where data or threat lack."""
    if _is_factory(target):
        changes = {"model.factory": str(target), **changes}
    elif not (_is_exported(Path(target)) and recipe is None):
        return read_target(Path(target), recipe, changes)[0]
    if recipe is not None:
        return load_recipe(recipe, changes)
    missing = [
        f"{option} (or --recipe): {what}"
        for key, option, what in (
            ("data.source", "--data", "which test images, such as folder:PATH"),
            ("threat.eps", "--eps", "how far an attacker may go, such as 8/255"),
        )
        if key not in changes
    ]
    if missing:
        raise RecipeError(f"evaluate {target}", missing)
    return parse_recipe(apply({"name": working_folder(target).name}, changes), "command line")


def read_target(target: Path, recipe: str | None, changes: Mapping[str, Any]) -> tuple[Recipe, Path]:
    """Return the recipe, with its changes, and the weights of a run folder, or of a weights file under `recipe`.

    Raises `CheckpointError` for an unfinished run, `RecipeError` for a weights file without a recipe.
    """
    if not target.is_dir():
        if recipe is None:
            raise RecipeError(str(target), ["a file of weights needs --recipe: which model, data and threat"])
        return load_recipe(recipe, changes), target
    folder = RunFolder(target)
    if not folder.model.exists():
        raise CheckpointError(f"{target}: has no finished network yet: hedgerow resume {target}")
    return parse_recipe(apply(folder.read_recipe().dump(), changes), str(folder.recipe)), folder.model


def working_folder(target: Path | str) -> Path:
    """Return the run folder itself, or where the batches of any other target are kept: beside its file."""
    path = Path(target)
    if path.is_dir():
        return path
    if _is_factory(target):
        return Path(f"{str(target).replace(':', '.')}-evaluation")
    return path.with_name(f"{path.stem}-evaluation")


def network_of(target: Path | str, recipe: Recipe, data: Dataset) -> tuple[nn.Module, torch.device]:
    """Return the network of a target, and where to evaluate it: exported files run where they were made for."""
    path = Path(target)
    if path.suffix in EXPORTED:
        return read_module(path, threads=torch.get_num_threads()), torch.device("cpu")
    if _is_exported(path):
        return read_network(path)[0], device_of(recipe)
    model = model_of(recipe, data, to_prune=False)
    if not _is_factory(target):
        load_weights(model, RunFolder(path).model if path.is_dir() else path)
    check_bounds(recipe, model, data)
    return model, device_of(recipe)


def check_answers(model: nn.Module, data: Dataset, where: str) -> None:
    """Raise `ModelError` unless `model` gives a logit for each class of the data, on two test images."""
    sample = data.test.select(torch.tensor([0, len(data.test) - 1])).pixels()
    with crafting(model) as inner, torch.no_grad():
        logits = inner(sample)
    found = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if found != [2, data.num_classes]:
        raise ModelError(
            f"{where}: gives {found} on two images, and {data.label} has {data.num_classes} classes: expected "
            f"logits [2, {data.num_classes}]"
        )


def _is_factory(target: Path | str) -> bool:
    return ":" in str(target) and not Path(target).exists()


def _is_exported(path: Path) -> bool:
    """Return whether a file holds architecture and weights both."""
    if path.suffix != ".safetensors" or not path.is_file():
        return path.suffix in EXPORTED
    return "hedgerow" in read_tensors(path)[1]
