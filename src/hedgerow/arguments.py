"""What several commands take from the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from hedgerow.errors import RecipeError

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or a shipped name.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe, such as threat.eps=4/255."),
]


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


@contextmanager
def stoppable(how: str) -> Iterator[None]:
    """End a command that Ctrl-C stops with status 130, and say how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\nstopped; nothing finished is lost. Go on with: {how}", err=True)
        raise typer.Exit(130) from None
