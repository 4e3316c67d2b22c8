"""The commands `export` and `latency`. Nothing heavy is imported until one runs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from hedgerow.errors import RecipeError

_FORMATS = "sparse,shrunk,onnx,shrunk-onnx,torch-export,sparse-int8,onnx-int8"
Batches = Annotated[str, typer.Option("--batch", help="Batch sizes to time, separated by commas.")]
Threads = Annotated[str, typer.Option(help="Thread counts to time, separated by commas.")]
Seconds = Annotated[float, typer.Option(help="Time for the runs of each file, batch size and thread count.")]
RecipeOption = Annotated[str | None, typer.Option(help="For a file of weights: model, data and threat.")]


def export(
    target: Annotated[Path, typer.Argument(metavar="DIR|MODEL", help="A run folder or a file of weights.")],
    *,
    formats: Annotated[str, typer.Option(help="Separated by commas; sparse-float16 is known too.")] = _FORMATS,
    out: Annotated[Path | None, typer.Option(help="Folder of the files (default: export in the run).")] = None,
    verify: Annotated[int, typer.Option(metavar="N", help="Attack each file on N test images too.")] = 0,
    multiple_of: Annotated[int, typer.Option(help="shrunk: keep channels in multiples of this many.")] = 16,
    batch: Batches = "1,64",
    threads: Threads = "1",
    seconds: Seconds = 1.0,
    recipe: RecipeOption = None,
) -> None:
    """Write a finished network in several formats, and say what each of them gains on this machine."""
    from hedgerow.engines.timing import Plan
    from hedgerow.exporting.gains import export_lines
    from hedgerow.exporting.writing import Order, export_target

    order = Order(
        formats=_names(formats),
        plan=Plan(_numbers("--batch", batch), _numbers("--threads", threads), seconds),
        multiple_of=multiple_of,
        verify=verify,
    )
    done = export_target(target, order, recipe=recipe, out=out, tell=functools.partial(typer.echo, err=True))
    typer.echo("\n".join(export_lines(done.record)))
    typer.echo(f"folder: {done.folder}")


def latency(
    target: Annotated[
        Path, typer.Argument(metavar="DIR|MODEL", help="A run folder, exported file, or file of weights.")
    ],
    *,
    engines: Annotated[str, typer.Option(help="torch, onnxruntime, sparse (default: all that can).")] = "",
    batch: Batches = "1,64",
    threads: Threads = "1",
    seconds: Seconds = 1.0,
    recipe: RecipeOption = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the record (JSON).")] = None,
) -> None:
    """Time a network under each engine, each in a process of its own: medians, spread, peak memory."""
    from hedgerow.engines.timing import Plan
    from hedgerow.exporting.gains import latency_lines
    from hedgerow.exporting.latency import latency_target

    plan = Plan(_numbers("--batch", batch), _numbers("--threads", threads), seconds)
    tell = functools.partial(typer.echo, err=True)
    place, record = latency_target(target, _names(engines), plan, recipe=recipe, out=out, tell=tell)
    typer.echo("\n".join(latency_lines(record)))
    typer.echo(f"record: {place}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise RecipeError("command line", [f"{option} {text}: expected whole numbers such as 1,64"]) from None
