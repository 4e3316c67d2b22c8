"""Every mistake is named by key path, value, what is allowed, and the nearest spelling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hedgerow.errors import RecipeError
from hedgerow.objectives import OBJECTIVES
from hedgerow.recipe import load_recipe, parse_recipe

Problems = Callable[[Mapping[str, Any]], list[str]]
PRUNING = {"method": "hydra", "sparsity": 0.9}


def test_unknown_key(problems: Problems) -> None:
    (problem,) = problems({"sed": 3})
    assert problem.startswith(
        "sed: unknown key (value 3); did you mean 'seed'? Allowed here: channels_last, compile,"
    )


def test_unknown_key_deep_inside(problems: Problems) -> None:
    (problem,) = problems({"phases": {"finetune": {"epoch": 7}}})
    assert problem.startswith(
        "phases.finetune.epoch: unknown key (value 7); did you mean 'epochs'? Allowed here: "
    )
    assert "momentum" in problem


def test_unknown_key_that_resembles_nothing(problems: Problems) -> None:
    (problem,) = problems({"threat": {"colour": "red"}})
    assert problem == "threat.colour: unknown key (value 'red'). Allowed here: eps, norm"


def test_a_key_that_is_not_text(problems: Problems) -> None:
    assert "5 = 5: Keys should be strings" in problems({5: 1})  # type: ignore[dict-item]


def test_missing_keys(problems: Problems) -> None:
    assert problems({"pruning": {}}) == [
        "pruning.method: required, and missing",
        "pruning.sparsity: required, and missing",
    ]
    with pytest.raises(RecipeError, match="name: required, and missing"):
        parse_recipe({})


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"seed": "many"}, "seed = 'many': Input should be a valid integer"),
        ({"phases": {"prune": {"lr": [1]}}}, "phases.prune.lr = [1]: Input should be a valid number"),
        ({"data": "digits"}, "data = 'digits': Input should be a valid dictionary"),
        ({"data": {"validation": "half"}}, "data.validation = 'half': Input should be a valid"),
        ({"precision": "fp8"}, "precision = 'fp8': Input should be 'auto', 'float32' or 'bf16'"),
        (
            {"phases": {"prune": {"optimizer": "sdg"}}},
            "phases.prune.optimizer = 'sdg': Input should be 'sgd', 'adam'",
        ),
        ({"grid": {"pruning.sparsity": 0.9}}, "grid.pruning.sparsity = 0.9: Input should be a valid list"),
        ({"grid": {"pruning.sparsity": []}}, "grid.pruning.sparsity = []: List should have at least 1 item"),
        ({"objective": {"name": 5}}, "objective.name = 5: Input should be a valid string"),
    ],
)
def test_wrong_type(problems: Problems, raw: dict[str, Any], expected: str) -> None:
    assert any(problem.startswith(expected) for problem in problems(raw))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"phases": {"prune": {"lr": 0}}}, "phases.prune.lr = 0: Input should be greater than 0"),
        ({"phases": {"prune": {"epochs": -1}}}, "phases.prune.epochs = -1: Input should be greater than or equal"),
        ({"phases": {"prune": {"warmup": 1}}}, "phases.prune.warmup = 1: Input should be less than 1"),
        ({"evaluation": {"examples": 0}}, "evaluation.examples = 0: Input should be greater than or equal to 1"),
    ],
)
def test_out_of_range(problems: Problems, raw: dict[str, Any], expected: str) -> None:
    (problem,) = problems(raw)
    assert problem.startswith(expected)


@pytest.mark.parametrize("sparsity", [1.2, 1, -0.1, 90])
def test_sparsity_out_of_range(problems: Problems, sparsity: float) -> None:
    (problem,) = problems({"pruning": {"method": "hydra", "sparsity": sparsity}})
    assert problem == (
        f"pruning.sparsity = {sparsity}: sparsity {sparsity:g} is not in [0, 1); it is the removed share: "
        "0.99 keeps 1 %"
    )


def test_eps_8_instead_of_8_255(problems: Problems) -> None:
    assert problems({"threat": {"eps": 8}}) == [
        "threat.eps = 8: eps 8 is above 1 and pixels run from 0 to 1; did you mean 8/255?"
    ]
    assert parse_recipe({"name": "x", "threat": {"norm": "l2", "eps": 8}}).threat.eps == 8


@pytest.mark.parametrize("eps", ["2/x", "8/0", "", "a lot", True, None, "nan", "inf"])
def test_eps_that_is_no_number(problems: Problems, eps: object) -> None:
    (problem,) = problems({"threat": {"eps": eps}})
    assert problem.startswith(f"threat.eps = {eps!r}: {eps!r} is not a number; write a fraction such as 8/255")


def test_negative_eps(problems: Problems) -> None:
    (problem,) = problems({"threat": {"eps": "-1/255"}})
    assert problem.startswith("threat.eps = '-1/255': eps -1/255 is negative")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            {"objective": {"name": "trade"}},
            "objective.name = 'trade': unknown objective 'trade'; did you mean 'trades'? Known: ",
        ),
        (
            {"phases": {"pretrain": {"objective": {"name": "naturel"}}}},
            "phases.pretrain.objective.name = 'naturel': unknown objective 'naturel'; did you mean 'natural'?",
        ),
        (
            {"pruning": {**PRUNING, "method": "hidra"}},
            "pruning.method = 'hidra': unknown pruning method 'hidra'; did you mean 'hydra'? Known: ",
        ),
        (
            {"data": {"source": "digit"}},
            "data.source = 'digit': unknown data source 'digit'; did you mean 'digits'? Known: ",
        ),
        (
            {"pruning": {**PRUNING, "distribution": "unifrom"}},
            "pruning.distribution = 'unifrom': unknown budget distribution 'unifrom'; did you mean 'uniform'?",
        ),
        (
            {"model": {"name": "resnet21"}},
            "model.name = 'resnet21': unknown model 'resnet21'; did you mean 'resnet20'? Known: ",
        ),
        (
            {"data": {"augment": ["flip", "crpo"]}},
            "data.augment = 'crpo': unknown augmentation 'crpo'; did you mean 'crop'? Known: ",
        ),
        (
            {"objective": {"name": "no_such_module:loss"}},
            "objective.name = 'no_such_module:loss': objective 'no_such_module:loss': cannot import module",
        ),
    ],
)
def test_unknown_part(problems: Problems, raw: dict[str, Any], expected: str) -> None:
    (problem,) = problems(raw)
    assert problem.startswith(expected)


def test_an_unknown_part_is_answered_with_all_there_are(problems: Problems) -> None:
    (problem,) = problems({"objective": {"name": "lbp"}})
    assert problem.endswith(f"Known: {', '.join(OBJECTIVES)}, or package.module:name of your own")
    assert "trades" in problem


def test_a_misspelt_objective_option(problems: Problems) -> None:
    (problem,) = problems({"objective": {"name": "trades", "betta": 3}})
    assert problem == (
        "objective.betta: unknown key (value 3); did you mean 'beta'? Allowed here: awp, beta, craft_mode, "
        "label_smoothing, name, step_size, steps"
    )


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            {"objective": {"name": "trades", "steps": "few"}},
            "objective.steps = 'few': Input should be a valid integer",
        ),
        ({"objective": {"name": "trades", "beta": -1}}, "objective (beta: -1): beta is -1"),
        (
            {"objective": {"name": "pgd-at", "step_size": "2/x"}},
            "objective (step_size: 2/x): '2/x' is not a number",
        ),
        (
            {"objective": {"craft_mode": "evil"}},
            "objective.craft_mode = 'evil': Input should be 'eval' or 'train'",
        ),
        (
            {"pruning": {**PRUNING, "init": "scale"}},
            "pruning.init = 'scale': Input should be 'scaled' or 'random'",
        ),
        ({"pruning": {**PRUNING, "inits": 1}}, "pruning.inits: unknown key (value 1); did you mean 'init'?"),
        (
            {"pruning": {**PRUNING, "granularity": "chanel"}},
            "pruning (granularity: chanel): Hydra has no 'chanel'",
        ),
        ({"data": {"source": "digits", "greyscale": 1}}, "data.greyscale: unknown key (value 1). Allowed here: "),
    ],
)
def test_wrong_option_of_a_part(problems: Problems, raw: dict[str, Any], expected: str) -> None:
    (problem,) = problems(raw)
    assert problem.startswith(expected)


def test_a_required_option_of_the_users_own_objective(
    problems: Problems, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_loss_of_recipe.py").write_text("def make(threat, *, alpha: float):\n    return None\n")
    monkeypatch.syspath_prepend(tmp_path)
    name = "own_loss_of_recipe:make"
    assert problems({"objective": {"name": name}}) == ["objective.alpha: required, and missing"]
    (problem,) = problems({"objective": {"name": name, "alpha": 1, "alfa": 2}})
    assert problem.startswith("objective.alfa: unknown key (value 2); did you mean 'alpha'?")
    assert parse_recipe({"name": "x", "objective": {"name": name, "alpha": 1}}).objective.name == name


def test_a_users_module_that_raises_when_it_is_imported(
    problems: Problems, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_loss_of_recipe.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    (problem,) = problems({"objective": {"name": "broken_loss_of_recipe:make"}})
    assert "importing its module raised ZeroDivisionError" in problem


def test_all_problems_are_reported_at_once(problems: Problems) -> None:
    found = problems(
        {
            "sed": 1,
            "threat": {"eps": 8},
            "objective": {"name": "trades", "betta": 3, "steps": "few"},
            "pruning": {"method": "hidra", "sparsity": 1.2},
            "phases": {"prune": {"lr": -1}},
            "model": {"name": "cnn-smal"},
        }
    )
    paths = ["threat.eps", "pruning.sparsity", "phases.prune.lr", "sed", "model.name", "objective.steps"]
    paths += ["objective.betta", "pruning.method"]
    assert [problem.split(" = ")[0].split(":")[0] for problem in found] == paths


@pytest.mark.parametrize(
    "key", ["seed", "objective.steps", "phases.pretrain.lr", "threat.eps", "data.train_limit"]
)
def test_a_grid_over_what_the_shared_dense_network_depends_on_is_refused(problems: Problems, key: str) -> None:
    (problem,) = problems({"pruning": PRUNING, "grid": {key: [1]}})
    assert problem.startswith(f"grid.{key}: all cells share one dense network")


def test_the_bad_grid_cell_is_named(problems: Problems) -> None:
    (problem,) = problems({"pruning": PRUNING, "grid": {"pruning.sparsity": [0.5, 1.2]}})
    assert problem.startswith(
        "grid cell {'pruning.sparsity': 1.2}: pruning.sparsity = 1.2: sparsity 1.2 is not in"
    )
    (problem,) = problems({"pruning": PRUNING, "grid": {"pruning.sparsty": [0.5]}})
    assert problem.startswith(
        "grid cell {'pruning.sparsty': 0.5}: pruning.sparsty: unknown key (value 0.5); did you"
    )


def test_unreadable_yaml(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: [x\nseed: 3\n")
    with pytest.raises(RecipeError, match=r"(?s)bad\.yaml: 1 problem.*not valid YAML: .*line"):
        load_recipe(path)
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(RecipeError, match="not valid YAML"):
        load_recipe(path)


@pytest.mark.parametrize("text", ["", "- name\n- seed\n", "just words\n"])
def test_yaml_that_is_no_recipe(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match="expected keys such as name, data, model, pruning at the top level"):
        load_recipe(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no such file or shipped recipe\. Shipped: .*digits-demo"):
        load_recipe(tmp_path / "absent.yaml")
    with pytest.raises(RecipeError, match="did you mean 'digits-demo'"):
        load_recipe("digit-demo")
    with pytest.raises(RecipeError, match="no such file"):
        load_recipe(tmp_path)


def test_what_is_computed_again_is_neither_compiled_nor_of_perturbed_weights(problems: Problems) -> None:
    (problem,) = problems({"recompute": True, "compile": True})
    assert problem.startswith("recompute = true: a compiled network decides by itself")
    awp = {"name": "pgd-at", "awp": 0.005}
    (problem,) = problems({"recompute": True, "objective": awp})
    assert problem.startswith("recompute = true: with objective.awp the weights")
    (problem,) = problems({"recompute": True, "phases": {"finetune": {"objective": awp}}})
    assert problem.startswith("recompute = true: with phases.finetune.objective.awp the weights")


def test_layers_in_which_processes_wait_for_each_other_are_not_compiled(problems: Problems) -> None:
    (problem,) = problems({"compile": True, "sync_bn": True})
    assert problem.startswith("compile = true: sync_bn: true makes processes wait")
    (problem,) = problems({"compile": "maybe"})
    assert problem.startswith("compile = 'maybe': ")
