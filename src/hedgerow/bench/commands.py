"""The commands `bench` and `tune`. Nothing heavy is imported until one runs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from hedgerow.arguments import Changes, RecipeArgument, parse_changes

Steps = Annotated[int, typer.Option(min=1, help="Steps that count, after one to warm up.")]


def bench(
    recipe: RecipeArgument,
    changes: Changes = None,
    steps: Steps = 4,
    out: Annotated[Path | None, typer.Option(help="Where to write the record (JSON).")] = None,
) -> None:
    """Time each phase of a recipe: images per second, share of this machine's peak, memory, where time goes."""
    from hedgerow.bench.measure import bench as measure
    from hedgerow.bench.measure import bench_lines, write_bench
    from hedgerow.recipe import load_recipe

    tell = functools.partial(typer.echo, err=True)
    found = measure(load_recipe(recipe, parse_changes(changes)), steps=steps, tell=tell)
    typer.echo("\n".join(bench_lines(found)))
    if out is not None:
        write_bench(found, out)


def tune(recipe: RecipeArgument, changes: Changes = None, steps: Steps = 3) -> None:
    """Find the memory format and precision that train fastest on this machine, and whether compiling pays."""
    from hedgerow.bench.tuning import tune as measure
    from hedgerow.bench.tuning import tune_lines
    from hedgerow.recipe import load_recipe

    tell = functools.partial(typer.echo, err=True)
    found = measure(load_recipe(recipe, parse_changes(changes)), steps=steps, tell=tell)
    typer.echo("\n".join(tune_lines(found)))
