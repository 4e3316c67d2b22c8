"""The typed recipe: what a run is. YAML in, every problem at once, YAML out with nothing left implicit."""

from hedgerow.recipe.load import (
    AFTER_PRETRAINING,
    apply,
    find_recipe,
    grid_cells,
    load_recipe,
    parse_recipe,
    settings_of,
    shipped_recipes,
)
from hedgerow.recipe.parts import construct, own_options
from hedgerow.recipe.schema import ObjectiveSection, PhaseSection, PruningSection, Recipe

__all__ = [
    "AFTER_PRETRAINING",
    "ObjectiveSection",
    "PhaseSection",
    "PruningSection",
    "Recipe",
    "apply",
    "construct",
    "find_recipe",
    "grid_cells",
    "load_recipe",
    "own_options",
    "parse_recipe",
    "settings_of",
    "shipped_recipes",
]
