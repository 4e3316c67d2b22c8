"""Keeping results never loses what is kept already."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
import run_cases

from hedgerow.grid import run
from hedgerow.recipe import parse_recipe

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "keep_results.py"


@pytest.fixture(scope="module")
def keep() -> Any:
    spec = importlib.util.spec_from_file_location("keep_results", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.keep


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two methods, one seed."""
    path = tmp_path_factory.mktemp("kept") / "compared"
    raw = {**run_cases.recipe().dump(), "grid": {"pruning.method": ["magnitude", "hydra"]}}
    run(parse_recipe(raw), path / "seed-0")
    return path


def cells(folder: Path) -> set[str]:
    return {file.parent.name for file in folder.glob("seed-0/*/result.json")}


def test_cells_that_a_later_run_does_not_have_stay_and_are_in_its_tables(
    keep: Any, compared: Path, tmp_path: Path
) -> None:
    first, later = (shutil.copytree(compared, tmp_path / name) for name in ("first", "later"))
    shutil.rmtree(first / "seed-0" / "hydra")
    shutil.rmtree(later / "seed-0" / "magnitude")
    kept = tmp_path / "results"
    keep(first, kept)
    assert cells(kept) == {"dense", "magnitude"}
    keep(later, kept)
    assert cells(kept) == {"dense", "magnitude", "hydra"}
    table = (kept / "summary.md").read_text()
    assert "magnitude" in table
    assert "hydra" in table


def test_cells_of_another_dense_network_are_not_mixed_in(keep: Any, compared: Path, tmp_path: Path) -> None:
    first, later = (shutil.copytree(compared, tmp_path / name) for name in ("first", "later"))
    kept = keep(first, tmp_path / "results")
    shutil.rmtree(later / "seed-0" / "magnitude")
    record = later / "seed-0" / "dense" / "result.json"
    record.write_text(record.read_text().replace("dense", "Dense"))
    before = (kept / "summary.md").read_bytes()
    with pytest.raises(FileExistsError, match=r"magnitude, which .* does not have, and another dense network"):
        keep(later, kept)
    assert cells(kept) == {"dense", "magnitude", "hydra"}
    assert (kept / "summary.md").read_bytes() == before
