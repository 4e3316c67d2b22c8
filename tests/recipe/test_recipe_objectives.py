"""What recipes say about objectives and about the average of weights: every option, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from hedgerow.grid import cell_recipes
from hedgerow.objectives import OBJECTIVES
from hedgerow.pipeline import objective_of
from hedgerow.pruners import PRUNERS
from hedgerow.recipe import parse_recipe
from hedgerow.training import Plan

Problems = Callable[[Mapping[str, Any]], list[str]]
MOVING = [name for name in PRUNERS if PRUNERS[name].learns]


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"name": "mart"}, {"beta": 5.0, "awp": 0.0, "step_size": 2 / 255}),
        ({"name": "mart", "beta": 6, "awp": "5e-3"}, {"beta": 6.0, "awp": 0.005}),
        ({"name": "free-at"}, {"replays": 4, "step_size": 8 / 255}),
        ({"name": "free-at", "replays": 8, "step_size": "4/255"}, {"replays": 8, "step_size": 4 / 255}),
        ({"name": "fast-at"}, {"step_size": 10 / 255}),
        ({"name": "trades", "awp": 0.005, "label_smoothing": 0.1}, {"awp": 0.005, "label_smoothing": 0.1}),
        ({"name": "pgd-at", "awp": 0.01}, {"awp": 0.01, "label_smoothing": 0.0}),
        ({"name": "natural", "label_smoothing": 0.2}, {"label_smoothing": 0.2}),
    ],
)
def test_objectives_get_what_a_recipe_says(section: dict[str, Any], expected: dict[str, Any]) -> None:
    recipe = parse_recipe({"name": "x", "objective": section})
    objective, title = objective_of(recipe.objective, recipe.threat.build())
    assert {key: getattr(objective, key) for key in expected} == expected
    assert title.startswith(section["name"])
    assert parse_recipe(recipe.dump()) == recipe


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"name": "mart", "beta": -1}, "objective (beta: -1): beta is -1.0; it weighs"),
        ({"name": "free-at", "replays": 0}, "objective (replays: 0): replays is 0; it is how often"),
        ({"name": "free-at", "replays": 2.5}, "objective.replays = 2.5: Input should be a valid integer"),
        ({"name": "free-at", "steps": 3}, "objective.steps: unknown key (value 3)"),
        ({"name": "fast-at", "step_size": "-1/255"}, "objective (step_size: -1/255): step_size is -1/255; it is"),
        ({"name": "hybrid", "awp": -0.1}, "objective (awp: -0.1): awp is -0.1; it is the size of the weight"),
        ({"name": "trades", "label_smoothing": 1}, "label_smoothing is 1.0; it is a share of the label"),
        ({"name": "natural", "awp": 0.01}, "objective.awp: unknown key (value 0.01)"),
        ({"name": "martt"}, "did you mean 'mart'?"),
    ],
)
def test_objectives_refuse_what_they_cannot_do(problems: Problems, section: dict[str, Any], words: str) -> None:
    (problem,) = problems({"objective": section})
    assert words in problem


def test_every_objective_can_be_asked_for_with_its_defaults() -> None:
    for name in OBJECTIVES:
        recipe = parse_recipe({"name": "x", "objective": {"name": name}})
        assert objective_of(recipe.objective, recipe.threat.build())[1] == name


def test_the_average_is_off_unless_a_phase_has_it() -> None:
    phases = parse_recipe({"name": "x", "phases": {"finetune": {"ema": 0.999}}}).phases
    assert (phases.pretrain.ema, phases.prune.ema, phases.finetune.ema) == (None, None, 0.999)
    assert Plan(epochs=1).ema is None


@pytest.mark.parametrize(
    ("ema", "words"), [(1, "less than 1"), (-0.1, "greater than or equal to 0"), ("x", "number")]
)
def test_a_decay_outside_its_range_is_refused(problems: Problems, ema: Any, words: str) -> None:
    (problem,) = problems({"phases": {"pretrain": {"ema": ema}}})
    assert problem.startswith(f"phases.pretrain.ema = {ema!r}: ")
    assert words in problem


@pytest.mark.parametrize("method", MOVING)
def test_it_has_no_meaning_where_masks_move(problems: Problems, method: str) -> None:
    pruning = {"method": method, "sparsity": 0.5}
    (problem,) = problems({"pruning": pruning, "phases": {"prune": {"ema": 0.99}}})
    assert problem == (
        f"phases.prune.ema = 0.99: {method} moves its masks while it trains, and the average of networks with "
        "different masks is none of them. Leave it out here; phases.pretrain and phases.finetune may have it"
    )
    others = {"pretrain": {"ema": 0.99}, "finetune": {"ema": 0.99}}
    assert parse_recipe({"name": "x", "pruning": pruning, "phases": others}).phases.prune.ema is None


def test_methods_without_training_and_unknown_ones_are_no_matter_of_the_average(problems: Problems) -> None:
    raw = {"name": "x", "pruning": {"method": "magnitude", "sparsity": 0.5}, "phases": {"prune": {"ema": 0.5}}}
    assert parse_recipe(raw).phases.prune.ema == 0.5
    (problem,) = problems({"pruning": {"method": "hidra", "sparsity": 0.5}, "phases": {"prune": {"ema": 0.5}}})
    assert "did you mean 'hydra'?" in problem


def test_a_method_that_trains_from_scratch_does_not_inherit_the_average_of_pretraining() -> None:
    raw = {
        "name": "x",
        "pruning": {"method": "hydra", "sparsity": 0.5},
        "phases": {"pretrain": {"ema": 0.99}, "finetune": {"ema": 0.9}},
        "grid": {"pruning.method": ["hydra", "dnr"]},
    }
    cells = cell_recipes(parse_recipe(raw))
    assert {name: cell.phases.prune.ema for name, cell in cells.items()} == dict.fromkeys(cells)
    assert cells["hydra"].phases.finetune.ema == 0.9


def test_a_grid_cell_with_moving_masks_is_refused(problems: Problems) -> None:
    raw = {
        "pruning": {"method": "magnitude", "sparsity": 0.5},
        "phases": {"prune": {"ema": 0.99}},
        "grid": {"pruning.method": ["magnitude", "harp"]},
    }
    (problem,) = problems(raw)
    assert "phases.prune.ema = 0.99: harp moves its masks" in problem
