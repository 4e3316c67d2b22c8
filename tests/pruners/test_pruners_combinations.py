"""What goes with what: one answer, which recipes, pruners, the command and the documentation all give."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from small_cases import small_model

from hedgerow.cli import main
from hedgerow.errors import ModelError, RecipeError
from hedgerow.pruners import PRUNERS, Magnitude, Pruner
from hedgerow.pruners.combinations import Combination, combinations, granularity_examples, markdown
from hedgerow.recipe import parse_recipe
from hedgerow.sparsity import DISTRIBUTIONS, GRANULARITIES, Budget, Granularity, parse_granularity

README = Path(__file__).parents[2] / "docs" / "methods" / "README.md"


def recipe(each: Combination, **more: Any) -> dict[str, Any]:
    density = parse_granularity(each.granularity).density
    pruning = {"method": each.method, "distribution": each.distribution, "granularity": each.granularity}
    return {"name": "x", "pruning": {**pruning, "sparsity": 0.5 if density is None else str(1 - density), **more}}


def test_every_method_granularity_and_distribution_is_answered() -> None:
    found = {(each.method, each.granularity, each.distribution) for each in combinations()}
    assert len(found) == len(list(PRUNERS)) * len(granularity_examples()) * len(list(DISTRIBUTIONS))
    assert {"weight", "filter", "channel", "kernel", "2:4", "block-4x1"} <= {name for _, name, _ in found}


def test_a_recipe_is_refused_with_exactly_this_reason_and_accepted_without_one() -> None:
    for each in combinations():
        if each.refusal is None:
            assert parse_recipe(recipe(each)).pruning is not None
            continue
        with pytest.raises(RecipeError) as refused:
            parse_recipe(recipe(each))
        (problem,) = refused.value.problems
        assert problem.startswith("pruning")
        assert problem.endswith(f": {each.refusal}")


def test_a_sparsity_that_a_pattern_cannot_have_is_refused_before_anything_runs() -> None:
    each = Combination("hydra", "2:4", "uniform", None)
    with pytest.raises(RecipeError) as refused:
        parse_recipe(recipe(each, sparsity=0.9))
    assert refused.value.problems == ["pruning: 2:4 removes exactly 50 %; set sparsity 0.5"]
    pruner = Magnitude(granularity="2:4")
    with pytest.raises(ModelError, match=r"Magnitude: 2:4 removes exactly 50 %; set sparsity 0\.5"):
        pruner.attach(small_model(), Budget(0.9))
    with pytest.raises(ModelError, match="2:4 keeps one share of every layer, so erk has no choice"):
        pruner.attach(small_model(), Budget(0.5, "erk"))


def test_a_pattern_that_yaml_took_for_a_number_is_explained() -> None:
    each = Combination("hydra", "2:4", "uniform", None)
    with pytest.raises(RecipeError, match=r'YAML takes 2:4 for a number, so a pattern needs quotes: .* "2:4"'):
        parse_recipe(recipe(each, granularity=124))


@pytest.mark.parametrize(
    ("granularity", "reason"),
    [
        ("chanel", "Magnitude has no 'chanel' form; did you mean 'channel'? It offers: weight, "),
        ("4:2", "Magnitude has no '4:2' form ('4:2' is not n:m with 1 <= n < m, such as 2:4"),
        ("block", "Magnitude has no 'block' form ('block' is not block-HEIGHTxWIDTH, such as block-4x1"),
        ("nowhere:GROUPS", "Magnitude has no 'nowhere:GROUPS' form. It offers: weight, "),
    ],
)
def test_a_granularity_that_does_not_exist_is_refused(granularity: str, reason: str) -> None:
    with pytest.raises(ModelError) as refused:
        Magnitude(granularity=granularity)
    assert str(refused.value).startswith(reason)


def test_a_method_says_why_it_has_no_form() -> None:
    reasons = {(c.method, c.granularity): c.refusal or "" for c in combinations() if c.distribution == "uniform"}
    assert "rgsm is the same splitting on whole channels" in reasons["rvsm", "channel"]
    assert "learns how much each layer keeps, and 2:4 fixes that" in reasons["harp", "2:4"]
    assert reasons["hydra", "2:4"] == ""


def test_a_new_method_and_a_new_granularity_show_up_without_an_edit() -> None:
    class Toy(Pruner):
        """Half a method."""

        granularities: ClassVar[tuple[str, ...]] = ("kernel",)
        without: ClassVar[dict[str, str]] = {"weight": "toys come in boxes"}

    PRUNERS.register("toy")(Toy)
    GRANULARITIES.register("column")(Granularity("column", (1, 2)))
    try:
        (head, *lines) = markdown().splitlines()
        assert head.endswith("| column |")
        assert "| `toy` | - | all | - | - | - | - | - |" in lines
        assert "- Toy has no 'weight' form: toys come in boxes. It offers: kernel." in lines
        with pytest.raises(ModelError, match="no 'column' form"):
            Magnitude(granularity="column")
    finally:
        PRUNERS._parts.pop("toy")
        GRANULARITIES._parts.pop("column")


def test_the_table_in_the_documentation_is_current() -> None:
    assert markdown() in README.read_text(encoding="utf-8")


def test_the_command_prints_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["hedgerow", "methods"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert capsys.readouterr().out == markdown()


def test_what_a_pattern_or_a_block_leaves_over_is_remarked() -> None:
    pruner = Magnitude(granularity="2:4")
    pruner.attach(small_model(), Budget(0.5))
    assert pruner.remarks == (
        "0.weight: 4 does not divide its 9 inputs: of the last 1 of every row 1 stay",
        "3.weight: 4 does not divide its 27 inputs: of the last 3 of every row 2 stay",
    )
    assert Pruner().remarks == ()
    assert {n: int(m.sum()) for n, m in pruner.finish().items()} == {
        "0.weight": 6 * 5, "3.weight": 4 * 14, "5.weight": 3 * 32,
    }  # fmt: skip
    blocks = Magnitude(granularity="block-16x1")
    blocks.attach(torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Linear(8, 4)), Budget(0.5))
    assert blocks.remarks == (
        "0.weight: one block of block-16x1 holds all 8x1 weights, so they stay whole",
        "1.weight: 4 of 4 outputs do not fill a block-16x1: blocks at the edge are smaller",
    )
