"""Grids: cells on one pretrained network, one after another or side by side, equal to full runs."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import run_cases
from run_cases import files_of, network

from hedgerow.errors import CheckpointError, HedgerowError
from hedgerow.files import read_tensors
from hedgerow.grid import cell_name, cell_recipes, run, run_folders
from hedgerow.pipeline import run_one
from hedgerow.recipe import parse_recipe
from hedgerow.result import load_result
from hedgerow.runfolder import one_writer
from hedgerow.training import read_metrics

CELLS = ["dense", "magnitude", "hydra"]


def grid_recipe() -> run_cases.Recipe:
    return run_cases.recipe(grid={"pruning.method": ["magnitude", "hydra"]})


def test_a_cell_equals_the_full_run_of_its_recipe(grid: Path, finished: Path, tmp_path: Path) -> None:
    assert network(grid / "hydra") == network(finished)
    run_one(run_cases.recipe(pruning__method="magnitude"), tmp_path / "single")
    assert network(grid / "magnitude") == network(tmp_path / "single")


def test_the_dense_cell_is_the_pretrained_network(grid: Path, finished: Path) -> None:
    dense, _ = read_tensors(grid / "dense" / "model.safetensors")
    pretrained, _ = read_tensors(finished / "checkpoints" / "pretrain.safetensors")
    assert all((dense[name] == pretrained[f"model:{name}"]).all() for name in dense)
    result = load_result(grid / "dense")
    assert (result.method, result.sparsity.asked, result.sparsity.counted) == ("dense", 0.0, 0.0)


def test_cells_train_on_the_dense_network_and_not_again(grid: Path) -> None:
    phases = {c: [m["phase"] for m in read_metrics(grid / c / "metrics.jsonl")] for c in CELLS}
    assert phases["dense"] == ["pretrain"] * 3
    assert phases["hydra"] == ["prune"] * 2 + ["finetune"] * 2
    assert phases["magnitude"] == ["finetune"] * 2  # it learns nothing, so pruning takes no epochs
    records = {p.name: p for p in load_result(grid / "magnitude").phases}
    assert (records["prune"].epochs, records["prune"].seconds) == (0, 0.0)
    assert records["pretrain"] == load_result(grid / "dense").phases[0]


def test_cells_side_by_side_equal_cells_in_a_row(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)  # two jobs, one thread each, as in this process
    told: list[str] = []
    results = run(grid_recipe(), tmp_path / "jobs", jobs=2, tell=told.append)
    assert [r.name for r in results] == CELLS
    assert told
    for cell in CELLS:
        assert network(tmp_path / "jobs" / cell) == network(grid / cell)
    one, other = ((folder / "report.html").exists() for folder in (grid, tmp_path / "jobs"))
    assert one
    assert other


def test_a_grid_is_compared_on_one_page_and_in_one_table(grid: Path) -> None:
    page = (grid / "report.html").read_text(encoding="utf-8")
    assert all(cell in page for cell in CELLS)
    (table,) = grid.glob("*.csv")
    rows = list(csv.reader(table.open(encoding="utf-8")))
    assert len(rows) == 1 + len(CELLS)
    assert run_folders(grid) == [grid / cell for cell in CELLS]
    assert run_folders(grid / "hydra") == [grid / "hydra"]


def test_running_a_finished_grid_again_touches_nothing(grid: Path) -> None:
    before = files_of(grid)
    told: list[str] = []
    assert [r.name for r in run(grid_recipe(), grid, tell=told.append)] == CELLS
    assert told == []
    assert {k: v for k, v in files_of(grid).items() if k in before} == before


def test_a_grid_goes_on_with_the_cells_that_are_missing(grid: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(grid, tmp_path / "copy")
    shutil.rmtree(folder / "hydra")
    assert run_folders(folder) == [folder / "dense", folder / "magnitude"]
    told: list[str] = []
    before = files_of(folder / "magnitude")
    run(grid_recipe(), folder, tell=told.append)
    assert told == ["[3/3] hydra"]
    assert network(folder / "hydra") == network(grid / "hydra")
    assert files_of(folder / "magnitude") == before


def test_a_cell_that_another_process_works_on_is_refused(grid: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(grid, tmp_path / "copy")
    (folder / "hydra" / "result.json").unlink()
    with (
        one_writer(folder / "hydra"),
        pytest.raises(CheckpointError, match="hydra: another process is working in this run folder"),
    ):
        run(grid_recipe(), folder)


def test_a_failing_cell_is_named_when_cells_run_side_by_side(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    folder = shutil.copytree(grid, tmp_path / "copy")
    (folder / "hydra" / "result.json").unlink()
    phase = folder / "hydra" / "checkpoints" / "prune.safetensors"
    phase.write_bytes(phase.read_bytes()[:100])
    with pytest.raises(HedgerowError, match=r"cell hydra stopped with status 2: .*prune\.safetensors"):
        run(grid_recipe(), folder, jobs=2)


def test_reusing_a_pretraining_that_is_not_there_is_an_error(grid: Path, tmp_path: Path) -> None:
    recipe = run_cases.recipe(phases__pretrain__reuse="../gone")
    with pytest.raises(CheckpointError, match=r"reuse = '\.\./gone': .*has no finished pretraining"):
        run_one(recipe, tmp_path / "run")
    shutil.copytree(grid / "dense", tmp_path / "gone")
    run_one(recipe, tmp_path / "run")
    assert network(tmp_path / "run") == network(grid / "hydra")


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"pruning.sparsity": 0.97, "pruning.method": "hydra"}, "hydra-0.97"),
        ({"threat.eps": "8/255"}, "8_255"),
        ({"objective": {"name": "own:loss", "step_size": "2/255"}}, "own.loss-2_255"),
        ({"data.augment": ["crop", "flip"], "seed": 3}, "crop-flip-3"),
        ({"data.augment": []}, "none"),
    ],
)
def test_a_cells_name_can_be_a_folder(values: dict[str, Any], name: str) -> None:
    assert cell_name(values) == name


def test_cells_are_told_apart_and_share_the_dense_network() -> None:
    raw = {
        **run_cases.RAW,
        "grid": {"pruning.sparsity": [0.9, "9/10", 0.97], "pruning.method": ["hydra", "magnitude"]},
    }
    cells = cell_recipes(parse_recipe(raw))
    sparsities = ("0.9", "9_10", "0.97")
    assert list(cells) == ["dense", *(f"{m}-{s}" for s in sparsities for m in ("hydra", "magnitude"))]
    assert cells["dense"].pruning is None
    assert all(c.phases.pretrain.reuse == "../dense" for n, c in cells.items() if n != "dense")
    assert all(c.grid == [] and c.name == n for n, c in cells.items())


AT = {"name": "pgd-at", "step_size": "1/10"}


def test_cells_of_one_name_stay_two_cells() -> None:
    grid = {"phases.prune.lr": [1, 2], "phases.finetune.lr": [2, 1], "pruning.init": ["scaled"]}
    raw = {**run_cases.RAW, "grid": {**grid, "phases.prune.objective": [AT, {**AT, "steps": 3}]}}
    assert len(cell_recipes(parse_recipe(raw))) == 1 + 8
    twice = {**run_cases.RAW, "grid": {"pruning.sparsity": ["9/10", "9/10"]}}
    cells = cell_recipes(parse_recipe(twice))
    assert list(cells) == ["dense", "9_10", "9_10-2"]
