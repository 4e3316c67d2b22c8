"""Reading recipes: from a file or by the name of a shipped one, with changes, every problem at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from hedgerow.errors import RecipeError
from hedgerow.recipe.parts import part_problems
from hedgerow.recipe.problems import describe_errors
from hedgerow.recipe.schema import Recipe
from hedgerow.registry import UnknownNameError, nearest

AFTER_PRETRAINING = ("pruning", "phases.prune", "phases.finetune", "evaluation")


def parse_recipe(raw: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Return the recipe in `raw`; `RecipeError` lists every problem: path, value, what is allowed, nearest key."""
    problems: list[str] = []
    recipe = None
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        problems += describe_errors(Recipe, error)
    if isinstance(raw.get("grid"), Mapping):  # the schema counts products; a single one has no number
        problems = [problem.replace("grid.0.", "grid.", 1) for problem in problems]
    problems += part_problems(raw)
    if recipe is not None:
        problems += _grid_problems(recipe)
    if recipe is not None and not problems:
        for cell in grid_cells(recipe):
            try:
                changes = {**settings_of(recipe, cell), "grid": [], "methods": {}}
                parse_recipe(apply(raw, changes), f"{where}, grid cell {cell}")
            except RecipeError as error:
                problems += [f"grid cell {cell}: {problem}" for problem in error.problems]
    if problems or recipe is None:
        raise RecipeError(where, problems)
    return recipe


def _grid_problems(recipe: Recipe) -> list[str]:
    from hedgerow.pruners import PRUNERS

    problems = []
    keys = {f"grid.{key}": key for product in recipe.grid for key in product}
    for method, settings in recipe.methods.items():
        try:
            PRUNERS[method]
        except UnknownNameError as error:
            problems.append(f"methods.{method}: {error}")
        keys |= {f"methods.{method}.{key}": key for key in settings}
    return problems + [
        f"{path}: all cells share one dense network, and this key would change it. Allowed: keys that start with "
        f"{', '.join(AFTER_PRETRAINING)}; for seeds use hedgerow compare --seeds, else a run for each value"
        for path, key in keys.items()
        if not key.startswith(AFTER_PRETRAINING)
    ]


def grid_cells(recipe: Recipe) -> list[dict[str, Any]]:
    """Return every combination of the grid's values as `{key path: value}`, in the order written, each once."""
    cells: list[dict[str, Any]] = []
    for product in recipe.grid:
        fresh: list[dict[str, Any]] = [{}]
        for key, values in product.items():
            fresh = [{**cell, key: value} for cell in fresh for value in values]
        cells += [cell for cell in fresh if cell not in cells]
    return cells


def settings_of(recipe: Recipe, cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes that a grid cell makes to the recipe: its method's own settings, then its values."""
    method = cell.get("pruning.method", recipe.pruning.method if recipe.pruning else None)
    return {**recipe.methods.get(str(method), {}), **cell}


def apply(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `raw` with `{"a.b": value}` changes made."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in raw.items()}
    for path, value in changes.items():
        head, _, rest = path.partition(".")
        if rest:
            inner = result.get(head)
            result[head] = apply(inner if isinstance(inner, dict) else {}, {rest: value})
        else:
            result[head] = value
    return result


def load_recipe(source: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Return the recipe in a YAML file, or the shipped one of that name, with `{"a.b": value}` changes made."""
    path = find_recipe(str(source))
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(str(path), [f"not valid YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(raw, dict):
        raise RecipeError(str(path), ["expected keys such as name, data, model, pruning at the top level"])
    return parse_recipe(apply(raw, changes or {}), str(source))


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))}


def find_recipe(source: str) -> Path:
    """Return the path of a recipe file or of a shipped recipe; `RecipeError` lists those that exist."""
    shipped = shipped_recipes()
    if Path(source).is_file():
        return Path(source)
    if source in shipped:
        return shipped[source]
    raise RecipeError(
        source, [f"no such file or shipped recipe{nearest(source, list(shipped))} Shipped: {', '.join(shipped)}"]
    )
