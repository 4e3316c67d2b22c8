"""Attacks chosen in the recipe, to the record, the tables, the page and the comparison; every mistake said."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import run_cases

from hedgerow.compare import run_comparison
from hedgerow.errors import RecipeError
from hedgerow.recipe import parse_recipe
from hedgerow.result import load_result

CHOSEN = ["fast", {"name": "apgd-ce", "steps": 3}]


def test_a_comparison_with_further_attacks_says_them_everywhere(tmp_path: Path) -> None:
    recipe = run_cases.recipe(
        evaluation__attacks=CHOSEN, grid={"pruning.method": ["magnitude", "hydra"], "pruning.sparsity": [0.9]}
    )
    assert parse_recipe(recipe.dump()) == recipe
    table = run_comparison(recipe, tmp_path / "run", seeds=1)
    cell = tmp_path / "run" / "seed-0" / "hydra-0.9"
    evaluation = load_result(cell).evaluation
    assert evaluation is not None
    assert list(evaluation.measures) == ["clean", "pgd", "fast", "apgd-ce", "worst_case"]
    assert "not AutoAttack" in evaluation.measures["fast"].how
    page = (tmp_path / "run" / "seed-0" / "report.html").read_text(encoding="utf-8")
    assert "Fast protocol" in page
    assert "not AutoAttack" in page
    text = table.read_text(encoding="utf-8")
    assert "| fast | apgd-ce | worst case |" in text
    assert "**fast**: fast protocol of Hedgerow, not AutoAttack" in text
    assert "| asked | method | against the best |" in text
    rows = list(csv.DictReader((tmp_path / "run" / "differences.csv").open(encoding="utf-8")))
    assert [row["measure"] for row in rows] == ["clean", "worst_case"]
    for row in rows:
        counts = [int(row[name]) for name in ("both", "method_only", "best_only", "neither")]
        assert sum(counts) == 20


@pytest.mark.parametrize(
    ("attacks", "words"),
    [
        (["fats"], "evaluation.attacks.0.name = 'fats': unknown attack 'fats'; did you mean 'fast'?"),
        (["pgd"], "evaluation.attacks.0 = 'pgd': not a further attack; evaluation.pgd_steps"),
        (
            ["fast", "autoattack"],
            "evaluation.attacks.1 = 'autoattack': not a further attack; evaluation.autoattack",
        ),
        (["cw"], "evaluation.attacks.0 = 'cw': made for l2, and threat.norm is linf"),
        (["fast", "fast"], "evaluation.attacks.1 = 'fast': is there already"),
        (
            [{"name": "apgd-ce", "stepps": 3}],
            "evaluation.attacks.0.stepps: unknown key (value 3); did you mean 'steps'?",
        ),
        ([{"name": "apgd-ce", "steps": 0}], "steps is 0; it is a count and must be 1 or more"),
        ([{"steps": 3}], "evaluation.attacks.0.name: required, and missing"),
    ],
)
def test_mistakes_in_attacks_are_said(attacks: Any, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        run_cases.recipe(evaluation__attacks=attacks)
    assert any(words in problem for problem in caught.value.problems), caught.value.problems
