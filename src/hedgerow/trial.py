"""A run as far as its finished network, judged on validation images: no test image is looked at."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from hedgerow.errors import CheckpointError, RecipeError
from hedgerow.evaluation import quick_accuracy
from hedgerow.files import write_json
from hedgerow.pipeline import run_phases, set_up
from hedgerow.recipe import Recipe
from hedgerow.runfolder import RunFolder, one_writer
from hedgerow.team import team


def run_trial(recipe: Recipe, path: Path) -> dict[str, float]:
    """Train and prune in the folder `path`, from wherever it stands; return `clean` and `robust` accuracy, 0 to 1.

    Robust is under PGD with 10 steps, on the validation split, which chose checkpoints too. The same folder may
    be carried out to its end afterwards (`run_one`): it goes on with the evaluation.
    """
    if recipe.grid:
        raise RecipeError(str(path), ["a trial is one run, and this is a grid: name the folder of a cell"])
    with one_writer(path):
        if RunFolder(path).holds(recipe) and RunFolder(path).validation.exists():
            return read_validation(path)
        bench, model = set_up(recipe, path)
        with contextlib.closing(bench.display):
            run_phases(bench, model)
            held_out = bench.dataset.validation.resident().to(bench.device)
            model.to(bench.device).eval()
            pixels, labels = held_out.pixels(), held_out.labels
            scores = quick_accuracy(model, pixels, labels, threat=bench.threat, seed=recipe.seed)
            told = "  ".join(f"{name} {score:.1%}" for name, score in scores.items())
            bench.display.say(f"{recipe.name} on validation images: {told}")
        write_json(bench.folder.validation, {**scores, "images": len(held_out)})
        team().wait()
        return read_validation(path)


def read_validation(path: Path) -> dict[str, float]:
    """Return what `run_trial` found in the folder; `CheckpointError` if it is not there or spoilt."""
    file = RunFolder(path).validation
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {name: float(found[name]) for name in ("clean", "robust", "images")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file}: no validation scores ({type(error).__name__}); delete it, and give the same command again"
        ) from error
