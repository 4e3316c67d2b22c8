"""The command `sweep`. Nothing heavy is imported until it runs."""

from __future__ import annotations

import functools
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hedgerow.arguments import Changes, parse_changes, stoppable
from hedgerow.errors import RecipeError

if TYPE_CHECKING:
    from hedgerow.executors import Workers

_EXECUTORS = ("local", "ray")


def sweep(  # noqa: PLR0913
    recipe: Annotated[str | None, typer.Argument(help="A YAML file, or a shipped name.")] = None,
    *,
    grid: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE,VALUE", help="Every combination of these is a cell.")
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=RANGE", help="Searched: log:0.001:0.1, 0:1, int:1:10, or words,of,a,list."),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="--search: trials, each a run without test images.")] = 20,
    seeds: Annotated[int, typer.Option(min=1, help="--grid: seeds 0 to N-1, each on its own dense network.")] = 1,
    executor: Annotated[str, typer.Option(help="local (processes of this machine) or ray.")] = "local",
    address: Annotated[str | None, typer.Option(help="ray: the cluster (default: Ray on this machine).")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cells at a time (local, --search: 1; ray: as many as fit).")
    ] = None,
    cpus: Annotated[float, typer.Option(help="ray: CPUs of a cell; shares below 1 go too.")] = 1.0,
    gpus: Annotated[float, typer.Option(help="ray: GPUs of a cell, such as 0.25.")] = 0.0,
    retries: Annotated[int, typer.Option(min=0, help="How often a lost cell goes on where it stopped.")] = 2,
    pause: Annotated[Path | None, typer.Option(metavar="DIR", help="Pause the sweep in this folder.")] = None,
    changes: Changes = None,
    out: Annotated[Path | None, typer.Option(help="Folder (default: runs/sweep-NAME).")] = None,
) -> None:
    """Run a grid, or search by validation accuracy, on this machine or a cluster. Goes on where it stopped."""
    if pause is not None:
        from hedgerow.sweep.pause import ask_to_pause

        typer.echo(f"pausing; go on with: {ask_to_pause(pause)}")
        return
    if recipe is None:
        raise RecipeError("command line", ["give a RECIPE to sweep, or --pause DIR"])
    from hedgerow.recipe import load_recipe
    from hedgerow.sweep.space import parse_product, parse_space

    product, space = parse_product(grid or []), parse_space(search or [])
    if space and (product or seeds > 1):
        raise RecipeError("command line", ["--search takes the recipe's seed and no --grid: give one of them"])
    loaded = load_recipe(recipe, parse_changes(changes))
    folder, command = out or Path("runs") / f"sweep-{loaded.name}", shlex.join(["hedgerow", *sys.argv[1:]])
    workers = _workers(executor, address, jobs=jobs, cpus=cpus, gpus=gpus, command=command)
    tell = functools.partial(typer.echo, err=True)
    given: dict[str, Any] = {"workers": workers, "retries": retries, "command": command, "tell": tell}
    try:
        with stoppable("the same command"):
            if space:
                from hedgerow.sweep.search import run_search

                table = run_search(loaded, folder, space=space, trials=trials, **given)
            else:
                from hedgerow.sweep.grids import run_sweep

                table = run_sweep(loaded, folder, product=product, seeds=seeds, **given)
    finally:
        workers.close()
    typer.echo(table.read_text(encoding="utf-8"), nl=False)
    typer.echo(f"table: {table}\npage: {folder / 'report.html'}")


def _workers(
    executor: str, address: str | None, *, jobs: int | None, cpus: float, gpus: float, command: str
) -> Workers:
    from hedgerow.executors import Local, RayTasks

    if executor not in _EXECUTORS:
        raise RecipeError("command line", [f"--executor {executor}: choose one of {', '.join(_EXECUTORS)}"])
    if executor == "ray":
        return RayTasks(address, cpus=cpus, gpus=gpus, jobs=jobs, command=command)
    if address is not None or gpus or cpus != 1:
        raise RecipeError("command line", ["--address, --cpus and --gpus are for --executor ray"])
    return Local(jobs or 1, command=command)
