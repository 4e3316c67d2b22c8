"""What a good recipe means: defaults, exact numbers, changes, grids, and the way back to YAML."""

from __future__ import annotations

import inspect
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

from hedgerow.objectives import OBJECTIVES, Trades
from hedgerow.pruners import PRUNERS, Hydra
from hedgerow.recipe import (
    Recipe,
    apply,
    construct,
    grid_cells,
    load_recipe,
    own_options,
    parse_recipe,
    shipped_recipes,
)
from hedgerow.threat import ThreatModel

FULL: dict[str, Any] = {
    "name": "full",
    "seed": 4,
    "data": {"source": "digits", "validation": 100, "train_limit": 500, "augment": ["crop"]},
    "model": {"factory": "nets:make", "options": {"width": 3}, "normalize": True},
    "threat": {"norm": "l2", "eps": "1/3"},
    "objective": {"name": "trades", "beta": 5.5, "step_size": "2/255"},
    "pruning": {"method": "hydra", "sparsity": 0.95, "init": "random", "score_decay": "1e-4"},
    "phases": {"pretrain": {"lr": 1e-7, "objective": {"name": "natural"}, "reuse": "../a"}},
    "grid": {"pruning.sparsity": [0.95, 0.99], "phases.prune.lr": [0.01, 0.1]},
}


@pytest.mark.parametrize(
    ("eps", "exact"),
    [
        ("8/255", Fraction(8, 255)),
        (" 8 / 255 ", Fraction(8, 255)),
        (0.031, Fraction(31, 1000)),
        ("0.031", Fraction(31, 1000)),
        (1, Fraction(1)),
        (0, Fraction(0)),
        ("1e-2", Fraction(1, 100)),
    ],
)
def test_eps_is_exact_in_every_form(eps: object, exact: Fraction) -> None:
    recipe = parse_recipe({"name": "x", "threat": {"eps": eps}})
    assert recipe.threat.eps == exact
    assert recipe.threat.build() == ThreatModel("linf", exact)
    assert recipe.dump()["threat"]["eps"] == str(exact)


def test_sparsity_is_exact() -> None:
    recipe = parse_recipe({"name": "x", "pruning": {"method": "magnitude", "sparsity": 0.97}})
    assert recipe.pruning is not None
    assert recipe.pruning.sparsity == Fraction(97, 100)


@pytest.mark.parametrize("raw", [FULL, {"name": "x"}], ids=["full", "minimal"])
def test_yaml_reads_back_equal(tmp_path: Path, raw: dict[str, Any]) -> None:
    recipe = parse_recipe(raw)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    again = load_recipe(path)
    assert again == recipe
    assert again.to_yaml() == recipe.to_yaml()
    assert again != parse_recipe({**raw, "seed": 5})


def test_free_keys_survive_the_way_to_yaml_and_back() -> None:
    again = parse_recipe(yaml.safe_load(parse_recipe(FULL).to_yaml()))
    assert own_options(again.objective) == {"beta": 5.5, "step_size": "2/255"}
    assert again.pruning is not None
    assert own_options(again.pruning) == {"init": "random", "score_decay": "1e-4"}
    assert again.phases.pretrain.objective is not None
    assert again.phases.pretrain.objective.name == "natural"


@pytest.mark.parametrize("name", list(shipped_recipes()))
def test_shipped_recipes_validate_and_say_what_they_are(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert len(recipe.description) > 20
    assert parse_recipe(yaml.safe_load(recipe.to_yaml())) == recipe
    assert recipe.pruning is not None


def test_there_are_shipped_recipes() -> None:
    assert {"digits-demo", "digits-quick"} <= set(shipped_recipes())


def test_defaults_are_the_published_ones() -> None:
    recipe = parse_recipe({"name": "x"})
    pretrain, prune, finetune = recipe.phases.pretrain, recipe.phases.prune, recipe.phases.finetune
    assert (pretrain.epochs, prune.epochs, finetune.epochs) == (100, 20, 100)
    assert (pretrain.lr, prune.lr, finetune.lr) == (0.1, 0.1, 0.01)
    assert (pretrain.weight_decay, prune.weight_decay, finetune.weight_decay) == (5e-4, 0.0, 5e-4)
    assert (pretrain.select, prune.select, finetune.select) == ("best", "last", "best")
    assert recipe.threat.build() == ThreatModel("linf", "8/255")
    assert (recipe.objective.name, recipe.data.source, recipe.model.name) == ("pgd-at", "digits", "cnn-small")
    assert (recipe.seed, recipe.precision, recipe.pruning, recipe.grid) == (0, "float32", None, [])
    assert recipe.evaluation.autoattack
    assert (recipe.evaluation.pgd_steps, recipe.evaluation.pgd_restarts) == (50, 5)


def test_defaults_are_not_shared_between_recipes() -> None:
    one, other = parse_recipe({"name": "x"}), parse_recipe({"name": "x"})
    one.data.augment.append("flip")
    one.grid.append({"a": [1]})
    assert other == parse_recipe({"name": "x"})


def test_a_number_that_yaml_reads_as_text_reaches_the_part_as_a_number() -> None:
    raw = yaml.safe_load("{name: x, objective: {name: trades, beta: 1e-1, steps: '3'}}")
    assert raw["objective"]["beta"] == "1e-1"  # YAML 1.1 wants 1.0e-1
    recipe = parse_recipe(raw)
    made = construct(OBJECTIVES["trades"], own_options(recipe.objective), threat=ThreatModel())
    assert isinstance(made, Trades)
    assert (made.beta, made.steps) == (0.1, 3)
    recipe = parse_recipe({"name": "x", "pruning": {"method": "hydra", "sparsity": 0.5, "score_decay": "1e-4"}})
    assert recipe.pruning is not None
    pruner = construct(PRUNERS["hydra"], own_options(recipe.pruning), seed=7)
    assert isinstance(pruner, Hydra)
    assert (pruner.score_decay, pruner.seed) == (1e-4, 7)


@pytest.mark.parametrize("size", ["2/255", 0.01, "0.01", Fraction(2, 255)])
def test_a_step_size_reaches_the_objective_exactly(size: Any) -> None:
    made = construct(OBJECTIVES["pgd-at"], {"step_size": size}, threat=ThreatModel())
    assert made.step_size == float(Fraction(str(size)))


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_every_objective_is_made_from_its_defaults(name: str) -> None:
    recipe = parse_recipe({"name": "x", "objective": {"name": name}})
    made = construct(OBJECTIVES[name], own_options(recipe.objective), threat=ThreatModel("linf", "1/10"))
    assert callable(made)
    assert getattr(made, "threat", ThreatModel("linf", "1/10")) == ThreatModel("linf", "1/10")


@pytest.mark.parametrize("name", list(PRUNERS))
def test_every_pruner_is_made_from_its_defaults(name: str) -> None:
    recipe = parse_recipe({"name": "x", "pruning": {"method": name, "sparsity": 0.9}})
    assert recipe.pruning is not None
    made = construct(PRUNERS[name], own_options(recipe.pruning), seed=1)
    assert type(made) is PRUNERS[name]
    assert "seed" not in inspect.signature(PRUNERS[name]).parameters or made.seed == 1


def test_changes_are_made_by_path_and_leave_the_original() -> None:
    raw = {"name": "x", "threat": {"eps": 0.1, "norm": "l2"}}
    changed = apply(raw, {"threat.eps": 0.2, "phases.prune.lr": 1, "name": "y"})
    assert changed == {"name": "y", "threat": {"eps": 0.2, "norm": "l2"}, "phases": {"prune": {"lr": 1}}}
    assert raw == {"name": "x", "threat": {"eps": 0.1, "norm": "l2"}}
    assert apply({"a": 5}, {"a.b": 6}) == {"a": {"b": 6}}


def test_changes_to_a_recipe_on_file() -> None:
    recipe = load_recipe("digits-quick", {"threat.eps": "4/255", "pruning.method": "magnitude", "grid": {}})
    assert recipe.threat.eps == Fraction(4, 255)
    assert recipe.pruning is not None
    assert recipe.pruning.method == "magnitude"


def test_grid_cells_are_every_combination_in_the_order_written() -> None:
    cells = grid_cells(parse_recipe(FULL))
    assert [tuple(cell.values()) for cell in cells] == [(0.95, 0.01), (0.95, 0.1), (0.99, 0.01), (0.99, 0.1)]
    assert grid_cells(Recipe(name="x")) == []
