from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import run_cases
import torch

from hedgerow.grid import run


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, made once; tests read it and copy it, and do not change it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(run_cases.recipe(), folder, command="hedgerow run tiny.yaml")
    return folder


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole grid of two cells, made once, one cell at a time."""
    folder = tmp_path_factory.mktemp("grid") / "run"
    run(run_cases.recipe(grid={"pruning.method": ["magnitude", "hydra"]}), folder)
    return folder
