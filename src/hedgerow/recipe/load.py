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
from hedgerow.registry import nearest

_AFTER_PRETRAINING = ("pruning", "phases.prune", "phases.finetune", "evaluation")


def parse_recipe(raw: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Return the recipe in `raw`; `RecipeError` lists every problem: path, value, what is allowed, nearest key."""
    problems: list[str] = []
    recipe = None
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        problems += describe_errors(Recipe, error)
    problems += part_problems(raw)
    if recipe is not None:
        problems += [_not_shared(key) for key in recipe.grid if not key.startswith(_AFTER_PRETRAINING)]
    if recipe is not None and not problems:
        for cell in grid_cells(recipe):
            try:
                parse_recipe({**apply(raw, cell), "grid": {}}, f"{where}, grid cell {cell}")
            except RecipeError as error:
                problems += [f"grid cell {cell}: {problem}" for problem in error.problems]
    if problems or recipe is None:
        raise RecipeError(where, problems)
    return recipe


def _not_shared(key: str) -> str:
    return (
        f"grid.{key}: all cells share one dense network, and this key would change it. Allowed: keys that start "
        f"with {', '.join(_AFTER_PRETRAINING)}; for seeds use hedgerow compare --seeds, else a run for each value"
    )


def grid_cells(recipe: Recipe) -> list[dict[str, Any]]:
    """Return every combination of the grid's values as `{key path: value}`, in the order written."""
    cells: list[dict[str, Any]] = [{}] if recipe.grid else []
    for key, values in recipe.grid.items():
        cells = [{**cell, key: value} for cell in cells for value in values]
    return cells


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
