"""Comparisons: grids of several products, settings of single methods, cells that are added later, the summary."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import run_cases
from run_cases import files_of

from hedgerow.compare import finished_results, label, run_comparison, summarise
from hedgerow.errors import RecipeError
from hedgerow.grid import cell_recipes, run, run_folders
from hedgerow.recipe import Recipe, load_recipe, own_options, parse_recipe
from hedgerow.result import load_result

PRODUCTS = [
    {"pruning.sparsity": [0.5], "pruning.method": ["magnitude", "rgsm"]},
    {"pruning.sparsity": [0.9], "pruning.method": ["magnitude"]},
]


def problems_of(**changes: Any) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        run_cases.recipe(**changes)
    return caught.value.problems


def test_a_grid_of_products_has_their_cells_in_order() -> None:
    names = list(cell_recipes(run_cases.recipe(grid=PRODUCTS)))
    assert names == ["dense", "magnitude-0.5", "rgsm-0.5", "magnitude-0.9"]
    twice = [*PRODUCTS, {"pruning.sparsity": [0.9, 0.5], "pruning.method": ["magnitude"]}]
    assert list(cell_recipes(run_cases.recipe(grid=twice))) == names


def test_a_method_brings_its_own_settings_and_the_grid_wins() -> None:
    methods = {"harp": {"pruning.gamma": 0.07, "phases.prune.lr": 0.02}}
    grid = {"pruning.method": ["hydra", "harp"], "phases.finetune.lr": [0.3]}
    cells = cell_recipes(run_cases.recipe(grid=grid, methods=methods))
    harp, hydra = cells["harp-0.3"], cells["hydra-0.3"]
    assert harp.pruning is not None
    assert own_options(harp.pruning) == {"gamma": 0.07}
    assert [c.phases.prune.lr for c in (harp, hydra)] == [0.02, 0.1]
    assert [c.phases.finetune.lr for c in (harp, hydra)] == [0.3, 0.3]
    cells = cell_recipes(run_cases.recipe(grid={**grid, "phases.prune.lr": [0.9]}, methods=methods))
    assert {c.phases.prune.lr for name, c in cells.items() if name != "dense"} == {0.9}


def test_settings_of_a_method_are_checked_before_anything_runs() -> None:
    grid = {"pruning.method": ["hydra", "harp"]}
    (problem,) = problems_of(grid=grid, methods={"harp": {"pruning.gama": 1}})
    assert "pruning.gama: unknown key (value 1)" in problem
    assert "gamma" in problem
    assert problems_of(grid=grid, methods={"hrap": {}})[0].startswith("methods.hrap: ")
    assert problems_of(grid=grid, methods={"harp": {"data.source": "digits"}})[0].startswith(
        "methods.harp.data.source: all cells share one dense network"
    )


def test_a_method_from_scratch_takes_what_is_said_of_its_one_phase() -> None:
    grid = {"pruning.method": ["dnr", "hydra"]}
    plain = cell_recipes(run_cases.recipe(grid=grid))["dnr"].phases
    assert (plain.pretrain.epochs, plain.prune.epochs, plain.finetune.epochs) == (0, 3 + 2 + 2, 0)
    assert (plain.prune.lr, plain.prune.batch_size, plain.prune.select) == (0.1, 32, "last")
    methods = {"dnr": {"phases.prune.lr": 0.4}}
    cells = cell_recipes(run_cases.recipe(grid={**grid, "phases.prune.weight_decay": [0.5]}, methods=methods))
    changed = cells["dnr-0.5"].phases
    assert (changed.prune.lr, changed.prune.weight_decay, changed.prune.epochs) == (0.4, 0.5, 7)
    more = cell_recipes(run_cases.recipe(grid={**grid, "phases.prune.epochs": [12]}))["dnr-12"].phases
    assert more.prune.epochs == 3 + 12 + 2


def test_a_grid_over_fine_tuning_refuses_methods_without_it() -> None:
    recipe = run_cases.recipe(grid={"pruning.method": ["dnr"], "phases.finetune.lr": [0.1, 0.2]})
    with pytest.raises(RecipeError, match=r"finetune\.lr: the method of cell dnr-0\.1 trains from scratch"):
        cell_recipes(recipe)


def test_a_grid_grows_and_keeps_what_is_finished(grid: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(grid, tmp_path / "copy")
    before = {cell: files_of(folder / cell) for cell in ("dense", "magnitude", "hydra")}
    told: list[str] = []
    wider = run_cases.recipe(grid={"pruning.method": ["magnitude", "admm", "hydra"]})
    run(wider, folder, tell=told.append)
    assert told == ["[3/4] admm"]
    assert {cell: files_of(folder / cell) for cell in before} == before
    assert run_folders(folder) == [folder / cell for cell in ("dense", "magnitude", "admm", "hydra")]
    with pytest.raises(RecipeError, match="holds a run of another recipe"):
        run(wider.model_copy(update={"seed": 5}), folder)
    with pytest.raises(RecipeError, match="holds a run of another recipe"):
        run(run_cases.recipe(), folder)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison by the recipe's own grid, on two seeds."""
    folder = tmp_path_factory.mktemp("comparison") / "run"
    table = run_comparison(run_cases.recipe(grid=PRODUCTS), folder, seeds=2)
    assert table == folder / "summary.md"
    return folder


def test_a_comparison_runs_the_recipes_own_grid(comparison: Path) -> None:
    results = finished_results(comparison)
    assert len(results) == 2 * 4
    rows = list(csv.DictReader((comparison / "summary.csv").open(encoding="utf-8")))
    assert [(row["method"], row["sparsity_asked"], row["seeds"]) for row in rows] == [
        ("dense", "0.0", "2"),
        ("magnitude", "0.5", "2"),
        ("rgsm (channel)", "0.5", "2"),
        ("magnitude", "0.9", "2"),
    ]
    assert (comparison / "summary.svg").read_text(encoding="utf-8").startswith("<svg ")


def test_a_comparison_has_a_page_over_its_seeds_with_files_beside_it(comparison: Path) -> None:
    page = (comparison / "report.html").read_text(encoding="utf-8")
    for said in (
        "Methods, over seeds",
        "magnitude, 90.0 % of the weights removed: Worst case accuracy ",
        "magnitude-0.5, seed 0",
        "magnitude-0.5, seed 1",
        "on the page of its seed: seed-0/report.html, seed-1/report.html",
        "Which differences are real",
        "seeds: 2",
    ):
        assert said in page, said
    assert 'id="gallery"' not in page, "pictures, layers and curves are on the pages of the seeds"
    assert "training-run-1" not in page
    files = comparison / "report-files"
    assert [p.name for p in sorted((files / "plots").iterdir())] == ["means.png", "means.svg"]
    assert (files / "plots" / "means.svg").read_bytes() == (comparison / "summary.svg").read_bytes()
    rows = list(csv.DictReader((files / "tables" / "summary.csv").open(encoding="utf-8")))
    kept = list(csv.DictReader((comparison / "summary.csv").open(encoding="utf-8")))
    assert [row["pgd"] for row in rows] == [row["pgd_mean"] for row in kept]
    assert {"differences.tex", "phases.md", "sizes.csv"} <= {p.name for p in (files / "tables").iterdir()}


def test_a_mean_is_that_of_the_results(comparison: Path) -> None:
    results = finished_results(comparison)
    for cell in summarise(results):
        mine = [r for r in results if (label(r), r.sparsity.asked) == (cell.method, cell.asked)]
        values = [r.evaluation.measures["pgd"].accuracy for r in mine if r.evaluation]
        assert cell.measures["pgd"].mean == pytest.approx(sum(values) / 2)
        assert cell.measures["pgd"].spread == pytest.approx(abs(values[0] - values[1]) / 2**0.5)


def test_a_comparison_takes_further_methods_into_its_table(comparison: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(comparison, tmp_path / "copy")
    before = files_of(folder / "seed-0" / "rgsm-0.5")
    run_comparison(run_cases.recipe(grid=PRODUCTS), folder, methods=["hydra"], sparsities=["0.9"])
    text = (folder / "summary.md").read_text(encoding="utf-8")
    assert "| hydra | 90 % |" in text
    assert "| rgsm (channel) | 50 % |" in text
    assert files_of(folder / "seed-0" / "rgsm-0.5") == before


def test_results_name_the_groups_that_were_removed(comparison: Path) -> None:
    groups = {
        cell: load_result(comparison / "seed-0" / cell).sparsity.granularity for cell in ("dense", "rgsm-0.5")
    }
    assert groups == {"dense": "weight", "rgsm-0.5": "channel"}


def test_the_shipped_comparison_is_sound() -> None:
    recipe: Recipe = load_recipe("cifar10-folder-resnet20-methods")
    assert parse_recipe(recipe.dump()) == recipe
    assert {"harp-0.99", "dnr-0.95", "flying-bird-0.99"} <= set(cell_recipes(recipe))
