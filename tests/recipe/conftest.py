from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from hedgerow.errors import RecipeError
from hedgerow.recipe import parse_recipe

Problems = Callable[[Mapping[str, Any]], list[str]]


@pytest.fixture
def problems() -> Problems:
    """Return the problems of a recipe that has some; `name: x` is written for it."""

    def find(raw: Mapping[str, Any]) -> list[str]:
        with pytest.raises(RecipeError) as caught:
            parse_recipe({"name": "x", **raw})
        assert str(caught.value).splitlines()[0].startswith("recipe: ")
        assert all(f"  - {problem}" in str(caught.value) for problem in caught.value.problems)
        return caught.value.problems

    return find
