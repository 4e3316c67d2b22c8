"""Runs of several cells on one pretrained network, and the page that compares them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hedgerow.errors import RecipeError
from hedgerow.executors import Local, Task, carry_out, failure
from hedgerow.pipeline import check_pruner, dataset_of, model_of, pretrain_only, run_one
from hedgerow.pruners import PRUNERS
from hedgerow.recipe import Recipe, apply, grid_cells, parse_recipe, settings_of
from hedgerow.report import write_report, write_tables
from hedgerow.result import Result
from hedgerow.runfolder import RunFolder, one_writer

DENSE = "dense"
_PRUNE = "phases.prune."


def run(
    recipe: Recipe,
    path: Path,
    *,
    command: str = "",
    tell: Callable[[str], None] | None = None,
    jobs: int = 1,
) -> list[Result]:
    """Carry out a recipe, with or without a grid, in the folder `path`, and write its page.

    Called again on the same folder it goes on where it stopped; finished cells are not touched. With `jobs`
    above 1 that many cells of a grid run at a time, each in a process of its own with its share of the cores,
    once the dense network is trained. Returns the results, the dense network first when there is a grid.
    """
    tell = tell or (lambda _: None)
    with one_writer(path):
        if not recipe.grid:
            results = [run_one(recipe, path, command=command)]
            write_report([path], RunFolder(path).report, command=command or None)
            return results
        RunFolder(path).holds(recipe)
        cells = cell_recipes(recipe)
        finished = [path / name for name in cells]
        dataset = None
        if not all(RunFolder(cell).result.exists() for cell in finished):
            dataset = dataset_of(recipe)
            model = model_of(recipe, dataset)
            for cell in cells.values():
                check_pruner(cell, model, dataset)
        RunFolder(path).open(recipe)
        if jobs > 1 and dataset is not None:
            with one_writer(path / DENSE):
                pretrain_only(cells[DENSE], path / DENSE, dataset=dataset)
            failed = carry_out(cell_tasks(cells, path), Local(jobs, command=command), tell=tell)
            if failed:
                raise failure(failed)
        results = []
        for number, (name, cell) in enumerate(cells.items(), start=1):
            if not RunFolder(path / name).result.exists():
                tell(f"[{number}/{len(cells)}] {name}")
            with one_writer(path / name):
                results.append(run_one(cell, path / name, command=command, dataset=dataset))
        write_report(finished, RunFolder(path).report, title=recipe.name, command=command or None)
        write_tables(finished, path)
        return results


def cell_tasks(cells: Mapping[str, Recipe], path: Path, *, prefix: str = "") -> list[Task]:
    """Open the run folder of every cell in `path`; return what carries them out, `prefix` before their names.

    A cell that reuses the dense network waits until that is trained.
    """
    pretrained = RunFolder(path / DENSE).phase_file("pretrain")
    for name, cell in cells.items():
        RunFolder(path / name).open(cell)
    return [
        Task(
            prefix + name,
            path / name,
            RunFolder(path / name).result,
            needs=pretrained if cell.phases.pretrain.reuse else None,
            beside=len(cells),
        )
        for name, cell in cells.items()
    ]


def cell_recipes(recipe: Recipe) -> dict[str, Recipe]:
    """Return the recipe of every cell by the name of its folder; the dense base comes first.

    All cells reuse its pretraining, so that they differ in nothing else; a method that starts from scratch gets
    the epochs of all three phases in one, with the settings of pretraining; the recipe's `methods` and the grid
    may change them (`phases.prune.lr`).
    """
    raw = {**recipe.dump(), "grid": [], "methods": {}}
    cells = {DENSE: parse_recipe({**raw, "name": DENSE, "pruning": None})}
    for values in grid_cells(recipe):
        name = cell_name(values)
        name = f"{name}-{len(cells)}" if name in cells else name
        changes = {**settings_of(recipe, values), "name": name}
        cell = parse_recipe(apply(raw, {**changes, "phases.pretrain.reuse": f"../{DENSE}"}))
        if cell.pruning is not None and PRUNERS[cell.pruning.method].from_scratch:
            _refuse_finetuning(name, values)
            others = {key: value for key, value in changes.items() if not key.startswith("phases.")}
            cell = parse_recipe(apply(raw, {**others, **one_phase(cell, changes)}))
        cells[name] = cell
    return cells


def _refuse_finetuning(name: str, values: Mapping[str, Any]) -> None:
    vain = [key for key in values if key.startswith("phases.finetune.") and not key.endswith(".epochs")]
    if vain:
        problem = (
            f"grid.{vain[0]}: the method of cell {name} trains from scratch in one phase and has no fine-tuning; "
            "make the grid a list of products, and give this method one without the key"
        )
        raise RecipeError(name, [problem])


def one_phase(recipe: Recipe, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes that give the epochs of all phases to the prune phase, trained as pretraining is.

    Of `changes`, those that are about how the prune phase is trained hold for the one phase.
    """
    phases = recipe.phases
    epochs = phases.pretrain.epochs + phases.prune.epochs + phases.finetune.epochs
    training = phases.pretrain.model_dump(mode="json", exclude={"epochs", "reuse", "select", "ema"})
    asked = {key: value for key, value in changes.items() if key.startswith(_PRUNE) and key != f"{_PRUNE}epochs"}
    return {
        "phases.pretrain.epochs": 0,
        "phases.finetune.epochs": 0,
        "phases.prune": {**training, "epochs": epochs, "select": "last"},
        **asked,
    }


def cell_name(values: dict[str, Any]) -> str:
    """Return a folder name for a cell, such as `hydra-0.97`: methods first, then numbers."""
    words = [_plain(v) for v in values.values()]
    return "-".join(sorted(words, key=lambda word: word[0].isdigit()))


def _plain(value: Any) -> str:
    if isinstance(value, dict | list):
        value = "-".join(map(_plain, value.values() if isinstance(value, dict) else value))
    return str(value).replace("/", "_").replace(":", ".") or "none"


def run_folders(path: Path) -> list[Path]:
    """Return the finished runs in a folder: itself, or the cells of its grid in order."""
    folder = RunFolder(path)
    if folder.result.exists() or not folder.recipe.exists():
        return [path]
    recipe = folder.read_recipe()
    if not recipe.grid:
        return [path]
    return [path / name for name in cell_recipes(recipe) if RunFolder(path / name).result.exists()]
