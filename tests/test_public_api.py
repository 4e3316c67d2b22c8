"""The public names, and the README's promises: its code runs, its figures come from results/."""

from __future__ import annotations

import csv
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hedgerow

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_public_name_loads() -> None:
    assert all(getattr(hedgerow, name) is not None for name in hedgerow.__all__)
    assert set(hedgerow._HOME) == set(hedgerow.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Hidra'"):
        hedgerow.Hidra  # noqa: B018


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, hedgerow, hedgerow.cli; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_the_readmes_ten_lines_run_on_a_users_own_model_loader_and_loop() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    data = hedgerow.load_dataset("digits", train_limit=300)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(data.train.pixels(), data.train.labels), batch_size=100
    )
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16 * 36, 10)
    )
    names = {"model": model, "loader": loader, "x_test": data.test.pixels()[:50], "y_test": data.test.labels[:50]}
    exec(compile(code, "README.md", "exec"), names)
    total = hedgerow.total_count(hedgerow.count_nonzero(model))
    assert total.sparsity == pytest.approx(0.95, abs=1e-3)
    assert names["found"].record.measures["worst_case"].n == 50


def keeper() -> object:
    spec = importlib.util.spec_from_file_location("keep_results", ROOT / "benchmarks" / "keep_results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", sorted(p.parent.name for p in ROOT.glob("results/*/comparison.csv")))
def test_the_tables_of_the_readme_are_those_of_the_results(name: str) -> None:
    rows = list(csv.DictReader((ROOT / "results" / name / "comparison.csv").open(encoding="utf-8")))
    assert rows
    table = keeper().table(ROOT / "results" / name)  # type: ignore[attr-defined]
    assert table in README


def test_the_measured_figures_of_the_docs_are_those_of_the_results() -> None:
    words = [sys.executable, "benchmarks/method_tables.py", "--check"]
    made = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout
    comparison = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
    assert list(ROOT.glob("results/*/summary.md"))
    for summary in ROOT.glob("results/*/summary.md"):
        assert summary.read_text(encoding="utf-8").strip() in comparison
