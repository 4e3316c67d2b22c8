"""Searches: judged on validation images alone, stopped and gone on with as if nothing had been."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
import sweep_cases
from sweep_cases import InProcess

from hedgerow.errors import CheckpointError, HedgerowError, MissingPackageError, RecipeError
from hedgerow.executors import Paused, Task
from hedgerow.files import read_tensors
from hedgerow.pipeline import dataset_of, model_of
from hedgerow.result import load_result
from hedgerow.runfolder import RunFolder
from hedgerow.sweep.pause import ask_to_pause
from hedgerow.sweep.search import run_search, trial_recipe
from hedgerow.sweep.space import parse_space
from hedgerow.sweep.study import Study
from hedgerow.trial import read_validation, run_trial

optuna = pytest.importorskip("optuna")

SPACE = parse_space(["phases.prune.lr=log:0.001:0.5", "phases.finetune.optimizer=sgd,adam"])
TRIALS = [f"trial-{i} --train-only" for i in range(3)]


@pytest.fixture(autouse=True)
def _no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hedgerow.sweep.search.write_report", lambda *_, **__: None)


def search(folder: Path, workers: InProcess, **given: Any) -> Path:
    given = {"space": SPACE, "trials": 3, "recipe": sweep_cases.recipe(), **given}
    return run_search(given.pop("recipe"), folder, workers=workers, **given)


def study_of(folder: Path) -> Study:
    recipe = sweep_cases.recipe()
    return Study(folder, about=recipe.dump(), space=SPACE, seed=recipe.seed)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, workers = tmp_path_factory.mktemp("search") / "run", InProcess()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hedgerow.sweep.search.write_report", lambda *_, **__: None)
        assert search(folder, workers) == folder / "search.md"
    best = study_of(folder).best()
    assert workers.started == ["dense --train-only", *TRIALS, f"trial-{best}", "dense"]
    return folder


def test_only_the_best_trial_ever_sees_test_images(searched: Path) -> None:
    best = study_of(searched).best()
    for number in range(3):
        trial = RunFolder(searched / "trials" / f"trial-{number}")
        assert trial.result.exists() == trial.evaluation.exists() == (number == best)
        assert trial.validation.exists()
    scores = [score for _, _, score in study_of(searched).trials()]
    assert best == scores.index(max(s for s in scores if s is not None))
    assert load_result(searched / "trials" / f"trial-{best}").evaluation is not None


def test_a_score_is_that_of_the_finished_network_on_validation_images(searched: Path) -> None:
    folder = RunFolder(searched / "trials" / f"trial-{study_of(searched).best()}")
    recipe = folder.read_recipe()
    data = dataset_of(recipe)
    model = model_of(recipe, data)
    model.load_state_dict(read_tensors(folder.model)[0])
    right = (model.eval()(data.validation.pixels()).argmax(1) == data.validation.labels).float().mean().item()
    found = read_validation(folder.path)
    assert found["clean"] == pytest.approx(right)
    assert found["images"] == 20
    assert 0 <= found["robust"] <= found["clean"]


def test_the_table_has_every_trial(searched: Path) -> None:
    rows = list(csv.reader((searched / "search.csv").open(encoding="utf-8")))
    assert rows[0] == ["trial", *SPACE, "clean", "robust"]
    assert len(rows) == 4
    best = study_of(searched).best()
    for row, (number, values, score) in zip(rows[1:], study_of(searched).trials(), strict=True):
        assert row[0] == f"trial-{number}{' (best)' if number == best else ''}"
        assert [float(row[1]), row[2], float(row[4])] == [*values.values(), score]
        recipe = RunFolder(searched / "trials" / f"trial-{number}").read_recipe()
        assert [recipe.phases.prune.lr, recipe.phases.finetune.optimizer] == list(values.values())
        assert recipe.phases.pretrain.reuse == "../dense"


def test_a_search_that_was_stopped_proposes_what_it_would_have_anyway(searched: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def stop(text: str) -> None:
        if text.startswith("[2/3]"):
            ask_to_pause(folder)

    with pytest.raises(Paused):
        search(folder, InProcess(evaluate=False), tell=stop)
    workers = InProcess(evaluate=False)
    search(folder, workers)
    assert study_of(folder).trials() == study_of(searched).trials()
    assert workers.started[0] == TRIALS[2]
    search(folder, again := InProcess(evaluate=False))
    assert again.started == []


def test_a_trial_that_was_over_before_the_study_knew_is_not_trained_again(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Study, "tell", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(folder, InProcess(evaluate=False))
    workers = InProcess(evaluate=False)
    search(folder, workers)
    assert workers.started[:2] == TRIALS[1:]
    assert study_of(folder).trials() == study_of(searched).trials()


def test_as_many_trials_at_a_time_as_there_are_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []

    def carried_out(tasks: list[Task], *_: object, **__: object) -> list[object]:
        given.append([task.name for task in tasks])
        return []

    monkeypatch.setattr("hedgerow.sweep.search.carry_out", carried_out)
    with pytest.raises(HedgerowError, match="no trial has a score; the last failure: unknown"):
        search(tmp_path, InProcess(2))
    assert given == [["dense", "trial-0", "trial-1"]]


def test_trials_that_fail_are_noted_and_all_of_them_an_error(tmp_path: Path) -> None:
    told: list[str] = []
    space = parse_space(["phases.finetune.lr=1e+30,0.1"])
    search(tmp_path / "some", InProcess(evaluate=False), space=space, trials=3, tell=told.append)
    rows = list(csv.reader((tmp_path / "some" / "search.csv").open(encoding="utf-8")))
    assert {row[1]: row[3] == "failed" for row in rows[1:]} == {"1e+30": True, "0.1": False}
    assert any("failed: phase finetune" in line for line in told)
    space = parse_space(["phases.finetune.lr=1e+30,1e+31"])
    with pytest.raises(HedgerowError, match="no trial has a score; the last failure: phase finetune"):
        search(tmp_path / "all", InProcess(evaluate=False), space=space, trials=2)


def test_a_failing_dense_network_ends_the_search(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cell dense stopped with status 2: phase pretrain"):
        search(tmp_path, InProcess(evaluate=False), recipe=sweep_cases.recipe(phases__pretrain__lr=1e30))


def test_values_that_change_the_dense_network_train_one_each() -> None:
    recipe = sweep_cases.recipe()
    dense, own = trial_recipe(recipe, {"phases.pretrain.lr": 0.3, "pruning.sparsity": 0.7})
    assert dense is None
    assert (own.phases.pretrain.lr, own.phases.pretrain.reuse) == (0.3, None)
    dense, own = trial_recipe(recipe, {"pruning.sparsity": 0.7})
    assert dense is not None
    assert (dense.pruning, own.phases.pretrain.reuse) == (None, "../dense")
    dense, own = trial_recipe(recipe, {"pruning.method": "dnr"})
    assert dense is None
    assert (own.phases.pretrain.epochs, own.phases.prune.epochs) == (0, 4)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pruning.sparsity=0.5:1.5", "pruning.sparsity = 1.5"),
        ("phases.prune.lr=-1:1", "phases.prune.lr = -1.0"),
        ("phases.prune.optimizer=sgd,adm", "'adm'"),
        ("phases.prune.rate=0:1", "phases.prune.rate: unknown key"),
        ("evaluation.examples=int:1:5", "changes nothing that validation accuracy depends on"),
        ("seed=int:1:5", "changes nothing that validation accuracy depends on"),
    ],
)
def test_a_space_that_the_recipe_refuses_is_refused_before_anything_runs(
    tmp_path: Path, text: str, problem: str
) -> None:
    workers = InProcess(evaluate=False)
    with pytest.raises(RecipeError) as caught:
        search(tmp_path, workers, space=parse_space([text]))
    assert problem in "\n".join(caught.value.problems)
    assert (workers.started, list(tmp_path.iterdir())) == ([], [])


def test_a_folder_holds_one_search(searched: Path) -> None:
    with pytest.raises(RecipeError, match="holds a search of another recipe, seed or space"):
        search(searched, InProcess(evaluate=False), space=parse_space(["phases.prune.lr=0.1:0.2"]))


def test_a_trial_is_one_run_and_its_scores_are_whole(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="a trial is one run, and this is a grid"):
        run_trial(sweep_cases.recipe(grid={"pruning.sparsity": [0.5]}), tmp_path)
    RunFolder(tmp_path).validation.write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="no validation scores"):
        read_validation(tmp_path)


def test_without_optuna_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingPackageError, match=r"pip install hedgerow\[sweep\]"):
        study_of(tmp_path)
