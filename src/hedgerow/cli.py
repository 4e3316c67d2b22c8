"""Thin commands over the pipeline. Nothing heavy is imported until a command runs, so that help is instant."""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hedgerow.errors import HedgerowError, RecipeError
from hedgerow.exporting import commands

if TYPE_CHECKING:
    from hedgerow.recipe import Recipe
    from hedgerow.result import Evaluation, Result

app = typer.Typer(
    help="Prune neural networks 10x to 100x, keep them adversarially robust, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or a shipped name.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe, such as threat.eps=4/255."),
]

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
) -> None:
    """Go on with a run that was stopped, exactly where its last checkpoint left it; on any number of processes."""
    from hedgerow.runfolder import RunFolder

    command = os.environ.get("HEDGEROW_COMMAND") or f"hedgerow resume {folder}"
    loaded = RunFolder(folder).read_recipe()
    _start_others(loaded, devices, nodes, jobs)
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
    with _stoppable(f"the same command, or hedgerow resume {folder}/seed-N"):
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


@app.command()
def evaluate(
    target: Annotated[Path, typer.Argument(metavar="DIR|MODEL", help="A run folder or a file of weights.")],
    recipe: Annotated[str | None, typer.Option(help="For a file of weights: model, data and threat.")] = None,
    changes: Changes = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the record (JSON).")] = None,
) -> None:
    """Evaluate a finished run, or weights of your own, as the recipe's `evaluation` section says."""
    from hedgerow.reevaluate import evaluate_target

    record = evaluate_target(target, recipe, parse_changes(changes), out)
    for name, measure in record.measures.items():
        typer.echo(
            f"{name:<12} {measure.accuracy:7.2%}  [{measure.low:.2%}, {measure.high:.2%}]  "
            f"{measure.correct}/{measure.n}, seed {measure.seed}  {measure.how}"
        )
    typer.echo("".join(f"{line}\n" for line in _failures(record)), nl=False)


@app.command()
def certify(  # noqa: PLR0913
    target: Annotated[Path, typer.Argument(metavar="DIR|MODEL", help="A run folder or a file of weights.")],
    *,
    method: Annotated[
        str, typer.Option(help="smoothing, ibp, crown-ibp, crown, alpha-crown, or package.module:name.")
    ] = "smoothing",
    eps: Annotated[str | None, typer.Option(help="Bounds: radius, such as 8/255 (the recipe's).")] = None,
    norm: Annotated[str | None, typer.Option(help="Bounds: linf or l2 (the recipe's).")] = None,
    sigma: Annotated[float | None, typer.Option(help="Smoothing: spread of the noise, pixel units.")] = None,
    n0: Annotated[int | None, typer.Option(help="Smoothing: draws that select a class (100).")] = None,
    n: Annotated[int | None, typer.Option("--n", help="Smoothing: draws that certify it (10000).")] = None,
    alpha: Annotated[float | None, typer.Option(help="Smoothing: chance of a wrong radius (0.001).")] = None,
    examples: Annotated[int | None, typer.Option(help="Test images (default: those of the evaluation).")] = None,
    radii: Annotated[str, typer.Option(help="Radii for the table, such as 0,110/255,0.5.")] = "",
    shard: Annotated[str, typer.Option(metavar="I/N", help="The I-th of N parts; the last one merges.")] = "1/1",
    minutes: Annotated[float | None, typer.Option(help="Stop after so long; go on later.")] = None,
    recipe: Annotated[str | None, typer.Option(help="For a file of weights: model, data and seed.")] = None,
    changes: Changes = None,
    out: Annotated[Path | None, typer.Option(help="Folder (default: certify-METHOD-... in the run).")] = None,
) -> None:
    """Prove how far around each test image no attacker can change the class. Goes on where it stopped."""
    from hedgerow.certification import Order, certify_target, parse_radii, summary_lines
    from hedgerow.certify import Shard

    given = {"eps": eps, "norm": norm, "sigma": sigma, "n0": n0, "n": n, "alpha": alpha}
    order = Order(
        method=method,
        options={name: value for name, value in given.items() if value is not None},
        examples=examples,
        radii=parse_radii(radii),
        shard=Shard.parse(shard),
        minutes=minutes,
    )
    tell = functools.partial(typer.echo, err=True)
    with _stoppable("the same command"):
        done = certify_target(target, order, recipe=recipe, changes=parse_changes(changes), out=out, tell=tell)
    if done.record is None:
        typer.echo(f"{done.known} of {done.total} images done; go on with the same command, or the other shards")
    else:
        typer.echo("\n".join(summary_lines(done.record, every=1 if radii or len(done.record.curve) < 6 else 5)))
    typer.echo(f"folder: {done.folder}")


app.command()(commands.export)
app.command()(commands.latency)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Run folders to compare.")],
    out: Annotated[Path | None, typer.Option(help="The page (default: report.html in the first DIR).")] = None,
) -> None:
    """Write one self-contained page, with CSV and Markdown tables beside it, on finished runs."""
    from hedgerow.grid import run_folders
    from hedgerow.report import write_report, write_tables

    runs = [run for folder in folders for run in run_folders(folder)]
    if not runs:
        raise HedgerowError(f"{folders[0]}: no cell of this grid is finished; `hedgerow resume {folders[0]}`")
    page = write_report(runs, out or folders[0] / "report.html", command=shlex.join(["hedgerow", *sys.argv[1:]]))
    if len(runs) > 1:
        write_tables(runs, page.parent)
    typer.echo(f"page: {page}")


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


@app.command()
def doctor() -> None:
    """Say what this installation and machine can do, and what is missing."""
    from hedgerow.doctor import examine

    findings = examine()
    for finding in findings:
        typer.echo(f"{'ok  ' if finding.good else 'LOOK'}  {finding.what:<14} {finding.found}")
        if finding.advice:
            typer.echo(f"{'':>22}{finding.advice}")


def parse_changes(changes: list[str] | None) -> dict[str, Any]:
    """Return `{"a.b": value}` of `a.b=value` texts, values read as YAML; `RecipeError` for other texts."""
    import yaml

    parsed: dict[str, Any] = {}
    problems = []
    for text in changes or []:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            problems.append(f"--set {text}: expected KEY=VALUE, such as pruning.sparsity=0.95")
            continue
        try:
            parsed[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            problems.append(f"--set {text}: the value is not valid YAML ({' '.join(str(error).split())})")
    if problems:
        raise RecipeError("command line", problems)
    return parsed


def _start_others(recipe: Recipe, devices: int, nodes: int, jobs: int) -> None:
    from hedgerow.errors import TeamError
    from hedgerow.pipeline import device_of
    from hedgerow.team import launch

    if jobs > 1 and devices * nodes > 1:
        raise TeamError("--jobs runs whole cells side by side, --devices and --nodes share one: give one of them")
    launch(devices, nodes, device_of(recipe).type)


def _carry_out(recipe: Any, folder: Path, command: str, jobs: int) -> None:
    from hedgerow.grid import run as run_recipe

    with _stoppable(f"hedgerow resume {folder}"):
        results = run_recipe(recipe, folder, command=command, tell=_tell, jobs=jobs)
    from hedgerow.team import team

    if not team().first:
        return
    for result in results:
        typer.echo("\n".join([_line(result), *_failures(result.evaluation)]))
    typer.echo(f"page: {folder / 'report.html'}")


def _tell(text: str) -> None:
    from hedgerow.team import team

    if team().first:
        typer.echo(text, err=True)


@contextmanager
def _stoppable(how: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\nstopped; nothing finished is lost. Go on with: {how}", err=True)
        raise typer.Exit(130) from None


def _line(result: Result) -> str:
    measures = result.evaluation.measures if result.evaluation else {}
    scores = "  ".join(f"{name} {m.accuracy:6.1%}" for name, m in measures.items())
    n = len(result.evaluation.examples) if result.evaluation else 0
    return f"{result.name:<20} {result.sparsity.counted:7.2%} removed  {scores}  (n={n})"


def _failures(record: Evaluation | None) -> list[str]:
    failed = [check for check, good in record.checks.items() if not good] if record else []
    return [f"FAILED: {check} {record.numbers.get(check, '') if record else ''}".rstrip() for check in failed]


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
