"""Thin commands over the pipeline. Nothing heavy is imported until a command runs, so that help is instant."""

from __future__ import annotations

import functools
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hedgerow.arguments import Changes, RecipeArgument, parse_changes, stoppable
from hedgerow.bench import commands as benching
from hedgerow.errors import HedgerowError
from hedgerow.evaluating import commands as evaluating
from hedgerow.evaluating.lines import failures
from hedgerow.exporting import commands
from hedgerow.sweep import commands as sweeping

if TYPE_CHECKING:
    from hedgerow.recipe import Recipe
    from hedgerow.result import Result

app = typer.Typer(
    help="Prune neural networks 10x to 100x, keep them adversarially robust, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Jobs = Annotated[int, typer.Option(min=1, help="Cells of a grid to run at a time.")]
Devices = Annotated[int, typer.Option(min=1, help="Processes on this machine that share the work.")]
Nodes = Annotated[int, typer.Option(min=1, help="Machines that do, each given the same command.")]


@app.command()
def run(
    recipe: RecipeArgument,
    changes: Changes = None,
    out: Annotated[Path | None, typer.Option(help="Run folder (default: runs/NAME).")] = None,
    jobs: Jobs = 1,
    devices: Devices = 1,
    nodes: Nodes = 1,
) -> None:
    """Pretrain, prune, fine-tune, evaluate, report. Stopped at any moment, it goes on when called again."""
    from hedgerow.recipe import load_recipe

    loaded = load_recipe(recipe, parse_changes(changes))
    _start_others(loaded, devices, nodes, jobs)
    _carry_out(loaded, out or Path("runs") / loaded.name, shlex.join(["hedgerow", *sys.argv[1:]]), jobs)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")],
    jobs: Jobs = 1,
    devices: Devices = 1,
    nodes: Nodes = 1,
    train_only: Annotated[bool, typer.Option(help="Stop before test images; validation alone.")] = False,
) -> None:
    """Go on with a run that was stopped, exactly where its last checkpoint left it; on any number of processes."""
    from hedgerow.runfolder import RunFolder

    command = os.environ.get("HEDGEROW_COMMAND") or f"hedgerow resume {folder}"
    loaded = RunFolder(folder).read_recipe()
    _start_others(loaded, devices, nodes, jobs)
    if train_only:
        from hedgerow.trial import run_trial

        with stoppable(f"hedgerow resume {folder} --train-only"):
            run_trial(loaded, folder)
    else:
        _carry_out(loaded, folder, command, jobs)


@app.command()
def compare(
    recipe: RecipeArgument,
    methods: Annotated[str, typer.Option(help="Pruning methods, separated by commas, or all.")] = "",
    sparsity: Annotated[str, typer.Option(help="Removed shares, separated by commas.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to N-1; each has its own dense network.")] = 1,
    changes: Changes = None,
    out: Annotated[Path | None, typer.Option(help="Folder (default: runs/compare-NAME).")] = None,
    jobs: Jobs = 1,
) -> None:
    """Run several methods at several sparsities on one base; one table, one plot. Goes on where it stopped.

    With neither --methods nor --sparsity it runs the recipe's own grid, or all methods at 0.9, 0.95 and 0.99.
    """
    from hedgerow.compare import run_comparison
    from hedgerow.recipe import load_recipe

    loaded = load_recipe(recipe, parse_changes(changes))
    folder = out or Path("runs") / f"compare-{loaded.name}"
    with stoppable(f"the same command, or hedgerow resume {folder}/seed-N"):
        table = run_comparison(
            loaded,
            folder,
            methods=methods.split(",") if methods else (),
            sparsities=sparsity.split(",") if sparsity else (),
            seeds=seeds,
            command=shlex.join(["hedgerow", *sys.argv[1:]]),
            tell=functools.partial(typer.echo, err=True),
            jobs=jobs,
        )
    typer.echo(table.read_text(encoding="utf-8"), nl=False)
    typer.echo(f"table: {table}")
    typer.echo(f"page: {folder / 'report.html'}")


app.command()(evaluating.evaluate)
app.command()(evaluating.certify)
app.command()(sweeping.sweep)
app.command()(commands.export)
app.command()(commands.latency)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Run folders to compare.")],
    out: Annotated[Path | None, typer.Option(help="The page (default: report.html in the first DIR).")] = None,
) -> None:
    """Write one self-contained page on finished runs; its plots and tables as files lie in report-files."""
    from hedgerow.grid import run_folders
    from hedgerow.report import FILES, write_report, write_tables

    runs = [run for folder in folders for run in run_folders(folder)]
    if not runs:
        raise HedgerowError(f"{folders[0]}: no cell of this grid is finished; `hedgerow resume {folders[0]}`")
    page = out or folders[0] / "report.html"
    command = shlex.join(["hedgerow", *sys.argv[1:]])
    write_report(runs, page, command=command, files=page.parent / FILES)
    if len(runs) > 1:
        write_tables(runs, page.parent)
    typer.echo(f"page: {page}")
    typer.echo(f"files: {page.parent / FILES}")


@app.command()
def recipes() -> None:
    """List the shipped recipes, one line each."""
    import yaml

    from hedgerow.recipe import shipped_recipes

    for name, path in shipped_recipes().items():
        description = yaml.safe_load(path.read_text(encoding="utf-8")).get("description", "")
        typer.echo(f"{name:<34} {' '.join(description.split())}")


@app.command()
def methods() -> None:
    """Print which pruning method goes with which granularity and distribution, and why others do not."""
    from hedgerow.pruners.combinations import markdown

    typer.echo(markdown(), nl=False)


@app.command()
def validate(recipe: RecipeArgument, changes: Changes = None) -> None:
    """Check a recipe without running it, and print it with every default written out."""
    from hedgerow.recipe import load_recipe

    typer.echo(load_recipe(recipe, parse_changes(changes)).to_yaml(), nl=False)


app.command()(benching.bench)
app.command()(benching.tune)


@app.command()
def doctor() -> None:
    """Say what this installation and machine can do, and what is missing."""
    from hedgerow.doctor import examine

    findings = examine()
    for finding in findings:
        typer.echo(f"{'ok  ' if finding.good else 'LOOK'}  {finding.what:<14} {finding.found}")
        if finding.advice:
            typer.echo(f"{'':>22}{finding.advice}")


def _start_others(recipe: Recipe, devices: int, nodes: int, jobs: int) -> None:
    from hedgerow.errors import TeamError
    from hedgerow.pipeline import device_of
    from hedgerow.team import launch

    if jobs > 1 and devices * nodes > 1:
        raise TeamError("--jobs runs whole cells side by side, --devices and --nodes share one: give one of them")
    launch(devices, nodes, device_of(recipe).type)


def _carry_out(recipe: Any, folder: Path, command: str, jobs: int) -> None:
    from hedgerow.grid import run as run_recipe

    with stoppable(f"hedgerow resume {folder}"):
        results = run_recipe(recipe, folder, command=command, tell=_tell, jobs=jobs)
    from hedgerow.team import team

    if not team().first:
        return
    for result in results:
        typer.echo("\n".join([_line(result), *failures(result.evaluation)]))
    typer.echo(f"page: {folder / 'report.html'}")


def _tell(text: str) -> None:
    from hedgerow.team import team

    if team().first:
        typer.echo(text, err=True)


def _line(result: Result) -> str:
    measures = result.evaluation.measures if result.evaluation else {}
    scores = "  ".join(f"{name} {m.accuracy:6.1%}" for name, m in measures.items())
    n = len(result.evaluation.examples) if result.evaluation else 0
    return f"{result.name:<20} {result.sparsity.counted:7.2%} removed  {scores}  (n={n})"


def main() -> None:
    """Run the command line; an error made for the user is printed without a traceback."""
    try:
        app()
    except HedgerowError as error:
        from hedgerow.team import team

        ours = team()
        who = "" if ours.first else f"process {ours.rank + 1} of {ours.world}: "
        typer.echo(f"error: {who}{error}", err=True)
        sys.exit(2)
