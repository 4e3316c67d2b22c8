"""A search: trials judged on validation images, and only the best of them ever shown the test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hedgerow.errors import HedgerowError, RecipeError
from hedgerow.executors import Ending, Task, Workers, carry_out, failure
from hedgerow.files import write_text
from hedgerow.grid import DENSE, cell_recipes
from hedgerow.recipe import AFTER_PRETRAINING, Recipe, apply, parse_recipe
from hedgerow.report import FILES, write_report
from hedgerow.report.table import Cell, Table
from hedgerow.runfolder import RunFolder
from hedgerow.sweep.pause import sweep_folder
from hedgerow.sweep.space import Space
from hedgerow.sweep.study import Study
from hedgerow.trial import read_validation

TRIALS = "trials"
_TRAIN = ("--train-only",)


def run_search(
    recipe: Recipe,
    path: Path,
    *,
    space: Space,
    trials: int,
    workers: Workers,
    retries: int = 0,
    command: str = "",
    tell: Callable[[str], None] = lambda _: None,
) -> Path:
    """Let `trials` trials choose values of the space's keys, evaluate the best; return the table of all.

    Each trial is a run folder in `path/trials`, trained and judged by its robust accuracy under PGD on validation
    images; where no key changes the dense network, all share one. The best alone goes on to the evaluation on test
    images. Called again on the same folder it goes on where it stopped, and with more trials further. Raises
    `RecipeError` for a space with values that the recipe refuses, `HedgerowError` when no trial has a score, and
    `Paused` when the folder's PAUSE file asks for it.
    """
    base = parse_recipe({**recipe.dump(), "grid": []}, recipe.name)
    check_space(base, space)
    with sweep_folder(path, command) as paused:
        study = Study(path, about=base.dump(), space=space, seed=base.seed)
        search = _Search(base, path / TRIALS, study, trials, tell)
        same: dict[str, Any] = {"retries": retries, "tell": tell, "paused": paused}
        failed = carry_out(search.first(workers.slots or 1), workers, then=search.told, **same)
        if any(task.name == DENSE for task, _ in failed):
            raise failure(failed)
        best = study.best()
        if best is None:
            raise HedgerowError(f"{path}: no trial has a score; the last failure: {search.last or 'unknown'}")
        chosen = [search.folder(best), *search.dense()]
        tell(f"trial {best} is the best; it is evaluated on test images")
        tasks = [Task(f.name, f, RunFolder(f).result, beside=len(chosen)) for f in chosen]
        failed = carry_out(tasks, workers, **same)
        if failed:
            raise failure(failed)
        write_report(
            [*chosen[1:], chosen[0]],
            path / "report.html",
            title=recipe.name,
            command=command or None,
            files=path / FILES,
        )
        table = search_table(study, search.folder)
        write_text(path / "search.csv", table.csv())
        return write_text(path / "search.md", table.markdown())


class _Search:
    """Makes tasks of proposals, and scores of what they leave."""

    def __init__(self, recipe: Recipe, path: Path, study: Study, trials: int, tell: Callable[[str], None]) -> None:
        self.recipe, self.path, self.study, self.trials, self.tell = recipe, path, study, trials, tell
        self.numbers: dict[Path, int] = {}
        self.dense_given = False
        self.last = ""

    def folder(self, number: int) -> Path:
        return self.path / f"trial-{number}"

    def dense(self) -> list[Path]:
        return [self.path / DENSE] if RunFolder(self.path / DENSE).recipe.exists() else []

    def first(self, slots: int) -> list[Task]:
        """Return what was not over when the search stopped, and as many new trials as there is room for."""
        tasks: list[Task] = []
        for number, values in self.study.unfinished():
            given = self.tasks(number, values)
            if given[-1].done.exists():  # stopped before the study was told
                self.told(given[-1], Ending(0), further=False)
            else:
                tasks += given
        while sum(task.name != DENSE for task in tasks) < slots and (more := self.more()):
            tasks += more
        return tasks

    def more(self) -> list[Task]:
        """Return the tasks of a new trial, or none when there are enough."""
        if len(self.study.trials()) >= self.trials:
            return []
        return self.tasks(*self.study.propose())

    def tasks(self, number: int, values: Mapping[str, Any]) -> list[Task]:
        """Open the folder of a trial, and that of the dense network it needs; return their tasks."""
        dense, recipe = trial_recipe(self.recipe, values)
        place = self.folder(number)
        RunFolder(place).open(recipe.model_copy(update={"name": place.name}))
        self.numbers[place] = number
        trial = Task(place.name, place, RunFolder(place).validation, words=_TRAIN, beside=self.trials)
        if dense is None:
            return [trial]
        base = RunFolder(self.path / DENSE)
        base.open(dense)
        trial = replace(trial, needs=base.phase_file("pretrain"))
        first, self.dense_given = not self.dense_given, True
        return [*([Task(DENSE, base.path, base.validation, words=_TRAIN)] if first else []), trial]

    def told(self, task: Task, ending: Ending, *, further: bool = True) -> list[Task]:
        """Tell the study of a trial that is over; return the next one."""
        if task.folder not in self.numbers:
            return []
        number = self.numbers[task.folder]
        score = None if ending.status else read_validation(task.folder)["robust"]
        self.study.tell(number, score)
        if score is None:
            self.last = ending.last
        result = f"failed: {ending.last}" if score is None else f"robust {score:.1%} of validation images"
        self.tell(f"[{number + 1}/{self.trials}] {task.name}: {result}")
        return self.more() if further else []


def trial_recipe(recipe: Recipe, values: Mapping[str, Any]) -> tuple[Recipe | None, Recipe]:
    """Return the recipe of the dense network that a trial with these values reuses, if it does, and its own.

    As in a grid, of which it is one cell, it reuses one unless a value changes the dense network.
    """
    if not all(key.startswith(AFTER_PRETRAINING) for key in values):
        return None, parse_recipe(apply(recipe.dump(), values), recipe.name)
    one = parse_recipe({**recipe.dump(), "grid": [{k: [v] for k, v in values.items()}]}, recipe.name)
    dense, cell = cell_recipes(one).values()
    return (dense if cell.phases.pretrain.reuse else None), cell


def check_space(recipe: Recipe, space: Space) -> None:
    """Raise `RecipeError` that lists every end of a range and every choice that the recipe does not take."""
    problems = []
    if recipe.pruning is None and not any(key.startswith("pruning.") for key in space):
        problems.append("pruning: the recipe prunes nothing; a search is for a recipe that does")
    first = {key: one.examples[0] for key, one in space.items()}
    for key, one in space.items():
        if key.partition(".")[0] in ("evaluation", "grid", "methods", "name", "seed"):
            problems.append(f"--search {key}: changes nothing that validation accuracy depends on")
            continue
        for value in one.examples:
            try:
                trial_recipe(recipe, {**first, key: value})
            except RecipeError as error:
                problems += error.problems
    if problems:
        raise RecipeError(recipe.name, list(dict.fromkeys(problems)))


def search_table(study: Study, folder: Callable[[int], Path]) -> Table:
    """Return one row per trial: its values and its accuracy on validation images."""
    best, keys = study.best(), list(study.distributions)
    rows = []
    for number, values, score in study.trials():
        found = read_validation(folder(number)) if score is not None else {}
        shown = [Cell(f"{v:.6g}" if isinstance(v, float) else str(v), value=v) for v in (values[k] for k in keys)]
        accuracies = [
            Cell(f"{100 * found[name]:.1f} %", value=found[name]) if found else Cell("failed")
            for name in ("clean", "robust")
        ]
        name = f"trial-{number}{' (best)' if number == best else ''}"
        rows.append([Cell(name), *shown, *accuracies])
    images = int(read_validation(folder(best))["images"]) if best is not None else 0
    return Table(
        "search",
        f"Trials, judged on {images} validation images",
        ["trial", *keys, "clean", "robust"],
        rows,
        notes=["robust: PGD, 10 steps, one random start; the best trial alone was evaluated on test images"],
    )
