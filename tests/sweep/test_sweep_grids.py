"""Sweeps over grids: a comparison's cells, table and page; paused, gone on with, and failing by name."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
import sweep_cases
from sweep_cases import InProcess

from hedgerow.errors import CheckpointError, RecipeError
from hedgerow.executors import Local, Paused
from hedgerow.grid import cell_recipes
from hedgerow.result import load_result
from hedgerow.runfolder import RunFolder
from hedgerow.sweep.grids import run_sweep
from hedgerow.sweep.pause import PAUSE, ask_to_pause
from hedgerow.training import read_metrics

PRODUCT = {"pruning.method": ["hydra"], "phases.prune.lr": [0.1, 0.2]}
CELLS = ["seed-0/dense", "seed-1/dense", *(f"seed-{s}/hydra-{lr}" for s in (0, 1) for lr in (0.1, 0.2))]
WORKERS = InProcess()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "run"
    table = run_sweep(sweep_cases.recipe(), folder, product=PRODUCT, workers=WORKERS, seeds=2, command="words")
    assert table == folder / "summary.md"
    return folder


@pytest.fixture
def no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hedgerow.sweep.grids.run_grids", lambda grids, path, **_: path / "summary.md")


def test_the_cells_are_those_of_a_comparison(swept: Path) -> None:
    assert WORKERS.started == CELLS
    grid = {"pruning.method": ["hydra"], "phases.prune.lr": [0.1, 0.2]}
    for seed in (0, 1):
        cells = cell_recipes(sweep_cases.recipe(grid=grid, seed=seed))
        assert set(cells) == {path.parent.name for path in (swept / f"seed-{seed}").glob("*/result.json")}
        assert all(RunFolder(swept / f"seed-{seed}" / name).read_recipe() == cell for name, cell in cells.items())
        assert (swept / f"seed-{seed}" / "report.html").exists()


@pytest.mark.usefixtures("no_pages")
def test_a_finished_sweep_is_not_run_again_and_a_wider_one_goes_on(swept: Path) -> None:
    workers, told = InProcess(2), []
    run_sweep(
        sweep_cases.recipe(), swept, product=PRODUCT, workers=workers, seeds=2, command="words", tell=told.append
    )
    assert workers.started == []
    assert told == ["6 cells, 6 of them finished"]
    wider = {**PRODUCT, "phases.prune.lr": [0.1, 0.2, 0.3]}
    run_sweep(sweep_cases.recipe(), swept, product=wider, workers=workers, seeds=1, tell=told.append)
    assert workers.started == ["seed-0/hydra-0.3"]
    assert told[-1] == "[4/4] seed-0/hydra-0.3 finished"


def test_cells_that_differ_in_more_than_method_and_sparsity_are_rows_of_their_own(swept: Path) -> None:
    rows = {row["method"]: row for row in csv.DictReader((swept / "summary.csv").open(encoding="utf-8"))}
    assert {"dense", "hydra-0.1", "hydra-0.2"} <= set(rows)
    for name in ("hydra-0.1", "hydra-0.2"):
        cells = [load_result(swept / f"seed-{seed}" / name).evaluation for seed in (0, 1)]
        mean = sum(cell.measures["pgd"].accuracy for cell in cells if cell) / 2
        assert rows[name]["seeds"] == "2"
        assert float(rows[name]["pgd_mean"]) == pytest.approx(mean)
    page = (swept / "report.html").read_text(encoding="utf-8")
    assert "hydra-0.2" in page


def test_failed_cells_are_named_after_all_others_are_through(tmp_path: Path) -> None:
    product = {"pruning.method": ["hydra"], "phases.finetune.lr": [1e30, 0.1]}
    workers, told = InProcess(), []
    with pytest.raises(CheckpointError, match=r"cell seed-0/hydra-1e\+30 stopped with status 2: phase finetune"):
        run_sweep(sweep_cases.recipe(), tmp_path, product=product, workers=workers, retries=2, tell=told.append)
    assert workers.started == ["seed-0/dense", "seed-0/hydra-1e+30", "seed-0/hydra-0.1"]
    assert "[2/3] seed-0/hydra-1e+30 failed" in told
    assert (tmp_path / "seed-0" / "hydra-0.1" / "result.json").exists()


def test_nothing_to_sweep_and_cells_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="nothing to sweep: give --grid KEY=VALUE,VALUE, or --search"):
        run_sweep(sweep_cases.recipe(), tmp_path, product={}, workers=InProcess())
    with pytest.raises(RecipeError, match=r"grid cell .*prnu"):
        run_sweep(sweep_cases.recipe(), tmp_path, product={"phases.prune.prnu": [1]}, workers=InProcess())
    with pytest.raises(RecipeError, match="all cells share one dense network"):
        run_sweep(sweep_cases.recipe(), tmp_path, product={"threat.eps": [0.1]}, workers=InProcess())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_pages")
def test_a_sweep_by_processes_is_paused_by_a_file_and_goes_on(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # as many threads as in this process
    folder, told = tmp_path / "run", []
    product = {"phases.prune.lr": [0.2]}

    def tell(text: str) -> None:
        told.append(text)
        if "dense pretrain 1/2" in text:
            assert ask_to_pause(folder) == "hedgerow sweep tiny"

    def sweep() -> Path:
        command = "hedgerow sweep tiny"
        return run_sweep(
            sweep_cases.recipe(), folder, product=product, workers=Local(1), command=command, tell=tell
        )

    with pytest.raises(Paused):
        sweep()
    assert (folder / PAUSE).exists()
    assert not (folder / "seed-0" / "dense" / "result.json").exists()
    assert sweep() == folder / "summary.md"
    assert [m["epoch"] for m in read_metrics(folder / "seed-0" / "dense" / "metrics.jsonl")] == [1, 2]
    same, other = folder / "seed-0" / "0.2", swept / "seed-0" / "hydra-0.2"
    assert (same / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_only_the_folder_of_a_sweep_is_paused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not the folder of a sweep"):
        ask_to_pause(tmp_path)
    assert list(tmp_path.iterdir()) == []
