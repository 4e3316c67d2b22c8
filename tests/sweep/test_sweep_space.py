"""What may be swept and searched: every form of the words, and every wrong one named."""

from __future__ import annotations

import pytest

from hedgerow.errors import RecipeError
from hedgerow.sweep.space import Choice, Range, parse_product, parse_space


def test_values_of_a_grid_are_yaml() -> None:
    words = ["pruning.method=hydra,magnitude", "pruning.sparsity=0.9,9/10", "a.b = [1, 2], {x: y}, null, '2:4'"]
    assert parse_product(words) == {
        "pruning.method": ["hydra", "magnitude"],
        "pruning.sparsity": [0.9, "9/10"],
        "a.b": [[1, 2], {"x": "y"}, None, "2:4"],
    }
    assert parse_product([]) == {}


def test_ranges_and_choices_of_a_search() -> None:
    words = ["lr=log:1e-3:0.1", "decay=0:5e-4", "epochs=int:1:10", "schedule=cosine,step", "batch=32,64"]
    assert parse_space(words) == {
        "lr": Range(0.001, 0.1, log=True),
        "decay": Range(0, 5e-4),
        "epochs": Range(1, 10, whole=True),
        "schedule": Choice(("cosine", "step")),
        "batch": Choice((32, 64)),
    }


def test_the_ends_stand_for_a_range_and_all_for_a_choice() -> None:
    assert Range(1, 10, whole=True).examples == [1, 10]
    assert all(isinstance(v, int) for v in Range(1, 10, whole=True).examples)
    assert Range(0.5, 1.5).examples == [0.5, 1.5]
    assert Choice(("a", 2)).examples == ["a", 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr", "--search lr: expected KEY=VALUES, such as phases.prune.lr=log:0.001:0.1"),
        ("=0:1", "expected KEY=VALUES"),
        ("lr=", "expected KEY=VALUES"),
        ("lr=0:x", "expected two numbers"),
        ("lr=int:0.5:2", "expected two whole numbers"),
        ("lr=1:0", "1 is not below 0, or not finite"),
        ("lr=0:inf", "0 is not below inf, or not finite"),
        ("lr=log:0:1", "a logarithmic range starts above 0"),
        ("lr=0.1", "one value is no choice; --set fixes a key"),
        ("lr=[1], [2]", "choices are numbers and words"),
        ("lr=[1", "not a list of YAML values"),
    ],
)
def test_a_wrong_search_is_named(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_space([text, "bad"])
    assert len(caught.value.problems) == 2
    assert message in caught.value.problems[0]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a"], "--grid a: expected KEY=VALUES, such as pruning.sparsity=0.9,0.95"),
        (["a=1]"], "--grid a=1]: not a list of YAML values"),
        (["a=1", "a=2"], "--grid a=2: a is there twice; write all of its values once"),
    ],
)
def test_a_wrong_grid_is_named(texts: list[str], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_product(texts)
    assert message in caught.value.problems[0]
