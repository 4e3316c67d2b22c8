"""Evaluation apart from a run: of a finished run folder again, or of a user's own weights."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hedgerow.errors import CheckpointError, RecipeError
from hedgerow.files import write_text
from hedgerow.pipeline import Bench, check_bounds, dataset_of, device_of, evaluate_model, model_of, sensitivity_of
from hedgerow.recipe import Recipe, apply, load_recipe, parse_recipe
from hedgerow.report import write_report
from hedgerow.result import Evaluation, load_result
from hedgerow.runfolder import RunFolder, load_weights
from hedgerow.training import Display


def evaluate_target(target: Path, recipe: str | None, changes: Mapping[str, Any], out: Path | None) -> Evaluation:
    """Return the evaluation of a run folder's network, or of a weights file under `recipe`.

    A run folder's `result.json` and page are brought up to date; `out` takes the record of a weights file.
    Raises `CheckpointError` for an unfinished run or unreadable weights.
    """
    loaded, weights = read_target(target, recipe, changes)
    result = load_result(target) if target.is_dir() else None
    with tempfile.TemporaryDirectory() as scratch:
        place = RunFolder(target if target.is_dir() else Path(scratch))
        data = dataset_of(loaded)
        bench = Bench(loaded, place, data, loaded.threat.build(), device_of(loaded), Display(loaded.name))
        model = model_of(loaded, data)
        load_weights(model, weights)
        check_bounds(loaded, model, data)
        record = evaluate_model(bench, model).record
        layers = sensitivity_of(bench, model)
    if result is not None:
        result.evaluation, result.sensitivity = record, layers or result.sensitivity
        result.save(RunFolder(target).result)
        write_report([target], RunFolder(target).report)
    if out is not None:
        write_text(out, record.model_dump_json(indent=1) + "\n")
    return record


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
