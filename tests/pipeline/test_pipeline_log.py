"""The recipe's `log`: what a run writes beside its metrics file, and what is refused before anything runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import run_cases

from hedgerow.errors import MissingPackageError, RecipeError
from hedgerow.training import read_metrics
from hedgerow.trial import run_trial


def test_tensorboard_has_the_numbers_of_the_metrics_file(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run_trial(run_cases.recipe(log=["tensorboard"], phases__finetune__epochs=1), tmp_path / "run")
    written = read_metrics(tmp_path / "run" / "metrics.jsonl")
    for phase, epochs in (("pretrain", 3), ("prune", 2), ("finetune", 1)):
        events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard" / phase))
        events.Reload()
        mine = [m for m in written if m["phase"] == phase]
        for name in ("loss", "clean", "robust", "lr"):
            found = events.Scalars(name)
            assert [e.step for e in found] == [m["epoch"] for m in mine] == list(range(1, epochs + 1))
            assert [e.value for e in found] == pytest.approx([m[name] for m in mine], rel=1e-6)


def test_a_log_that_cannot_be_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match=r"log\.0 = 'tensorbord'"):
        run_cases.recipe(log=["tensorbord"])
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(MissingPackageError, match=r"pip install hedgerow\[log\]"):
        run_trial(run_cases.recipe(log=["tensorboard"]), tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.yaml").exists()
