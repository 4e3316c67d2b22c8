from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_folders import evaluation, result, write_run

from hedgerow.result import Evaluation

Make = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> Make:
    """Write one complete run folder; keyword arguments change its Result."""

    def make(
        name: str = "hydra-97",
        *,
        method: str = "hydra",
        sparsity: float = 0.97,
        scored: Evaluation | None = evaluation(206, 130, 112),  # noqa: B008 - never changed
        metrics: bool = True,
        gallery: bool = True,
        **changes: Any,
    ) -> Path:
        folder = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        record = result(name, method=method, sparsity=sparsity, scored=scored, **changes)
        return write_run(folder, record, metrics=metrics, gallery=gallery)

    return make


@pytest.fixture
def three_runs(make_run: Make) -> list[Path]:
    return [
        make_run("dense", method="dense", sparsity=0.0, scored=evaluation(230, 145, 128)),
        make_run(),
        make_run("magnitude-97", method="magnitude", scored=evaluation(190, 110, 88)),
    ]
