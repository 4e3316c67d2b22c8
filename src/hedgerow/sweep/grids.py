"""A sweep over a grid: the comparison of its cells, each carried out wherever an executor has room."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hedgerow.compare import grids_of, run_grids
from hedgerow.errors import RecipeError
from hedgerow.executors import Ending, Task, Workers, carry_out, failure
from hedgerow.grid import DENSE, cell_recipes, cell_tasks
from hedgerow.recipe import Recipe
from hedgerow.runfolder import RunFolder
from hedgerow.sweep.pause import sweep_folder


def run_sweep(
    recipe: Recipe,
    path: Path,
    *,
    product: Mapping[str, Sequence[Any]],
    workers: Workers,
    seeds: int = 1,
    retries: int = 0,
    command: str = "",
    tell: Callable[[str], None] = lambda _: None,
) -> Path:
    """Carry out every cell of the product, or of the recipe's own grid, with seeds 0..N-1; return the table.

    The cells are those of a comparison in `path/seed-N`, and so are its table and its page. Cells of all seeds
    run side by side; those that are finished are not run again. Raises `RecipeError` for cells that cannot be
    run before any is, `CheckpointError` that names the cells that failed once all others are through, and
    `Paused` when the folder's PAUSE file asks for it.
    """
    if not product and not recipe.grid:
        problem = "nothing to sweep: give --grid KEY=VALUE,VALUE, or --search, or a recipe with a grid"
        raise RecipeError(recipe.name, [problem])
    grids = grids_of(recipe, product, seeds=seeds)
    with sweep_folder(path, command) as paused:
        tasks = seed_tasks(grids, path)
        done = sum(task.done.exists() for task in tasks)
        tell(f"{len(tasks)} cells, {done} of them finished")
        through = iter(range(done + 1, len(tasks) + 1))

        def told(task: Task, ending: Ending) -> tuple[()]:
            result = "failed" if ending.status else "finished"
            tell(f"[{next(through)}/{len(tasks)}] {task.name} {result}")
            return ()

        failed = carry_out(
            tasks,
            workers,
            retries=retries,
            tell=tell,
            paused=paused,
            then=told,
        )
        if failed:
            raise failure(failed)
        return run_grids(grids, path, command=command, tell=tell)


def seed_tasks(grids: Sequence[Recipe], path: Path) -> list[Task]:
    """Open the run folders of all cells; return their tasks, the dense networks of all seeds first."""
    tasks: list[Task] = []
    for seed, recipe in enumerate(grids):
        folder = RunFolder(path / f"seed-{seed}")
        folder.holds(recipe)
        cells = cell_recipes(recipe)
        folder.open(recipe)
        tasks += cell_tasks(cells, folder.path, prefix=f"{folder.path.name}/")
    dense = [replace(task, beside=len(grids)) for task in tasks if task.folder.name == DENSE]
    return [*dense, *(replace(t, beside=len(tasks) - len(dense)) for t in tasks if t.folder.name != DENSE)]
