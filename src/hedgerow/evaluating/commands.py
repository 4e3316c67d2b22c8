"""The commands `evaluate` and `certify`. Nothing heavy is imported until one runs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from hedgerow.arguments import Changes, parse_changes, stoppable
from hedgerow.errors import RecipeError


def evaluate(  # noqa: PLR0913
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET", help="A run folder, a file of weights, .onnx, .pt2, or package.module:factory."
        ),
    ],
    *,
    weights: Annotated[Path | None, typer.Option(help="For a factory: .safetensors or weights-only .pt.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Model, data and threat, where TARGET is no run.")] = None,
    data: Annotated[str | None, typer.Option(metavar="SOURCE[:PATH]", help="Such as folder:PATH.")] = None,
    eps: Annotated[str | None, typer.Option(help="How far an attacker may go, such as 8/255.")] = None,
    norm: Annotated[str | None, typer.Option(help="linf or l2 (the recipe's, or linf).")] = None,
    examples: Annotated[int | None, typer.Option(help="Test images (the recipe's, or all).")] = None,
    corruptions: Annotated[str | None, typer.Option(help="Common corruptions, by commas, or all.")] = None,
    shard: Annotated[str, typer.Option(metavar="I/N", help="The I-th of N parts; the last one merges.")] = "1/1",
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="As many images as fit, such as 10m; drawn at random.")
    ] = None,
    changes: Changes = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the record too (JSON).")] = None,
) -> None:
    """Measure clean accuracy and accuracy under attack, of any network. Goes on where it stopped."""
    from hedgerow.certify import Shard
    from hedgerow.evaluating.lines import evaluation_lines
    from hedgerow.evaluation import Budget, Share, UnfinishedError
    from hedgerow.reevaluate import evaluate_target, working_folder

    share = Share(Shard.parse(shard), Budget.parse(budget) if budget else None)
    given: dict[str, Any] = {
        **_data_changes(data),
        "model.weights": str(weights) if weights else None,
        "threat.eps": eps,
        "threat.norm": norm,
        "evaluation.examples": examples,
        "evaluation.corruptions": corruptions.split(",") if corruptions else None,
    }
    if weights and ":" not in target:
        raise RecipeError(
            "command line", [f"--weights {weights}: is for package.module:factory, not for {target}"]
        )
    asked = {name: value for name, value in given.items() if value is not None} | parse_changes(changes)
    try:
        with stoppable("the same command"):
            record = evaluate_target(target, recipe, asked, out, share)
    except UnfinishedError as error:
        typer.echo(str(error))
    else:
        typer.echo("\n".join(evaluation_lines(record)))
    if not Path(target).is_dir():
        typer.echo(f"folder: {working_folder(target)}")


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
    with stoppable("the same command"):
        done = certify_target(target, order, recipe=recipe, changes=parse_changes(changes), out=out, tell=tell)
    if done.record is None:
        typer.echo(f"{done.known} of {done.total} images done; go on with the same command, or the other shards")
    else:
        typer.echo("\n".join(summary_lines(done.record, every=1 if radii or len(done.record.curve) < 6 else 5)))
    typer.echo(f"folder: {done.folder}")


def _data_changes(text: str | None) -> dict[str, Any]:
    """Return the changes of `folder:PATH`, `digits`, or `package.module:source`."""
    if text is None:
        return {}
    from hedgerow.data import SOURCES

    source, _, path = text.partition(":")
    return {"data.source": source, "data.path": path} if source in SOURCES and path else {"data.source": text}
