"""Whole runs with replays, weight perturbation and averaged weights; an alarm is on the record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from run_cases import nonzeros, recipe

from hedgerow.files import read_tensors
from hedgerow.pipeline import run_one
from hedgerow.result import load_result

CHANGES = {
    "objective": {"name": "fast-at", "awp": 0.01},
    "phases__pretrain__objective": {"name": "free-at", "replays": 2},
    "phases__pretrain__epochs": 1,
    "phases__pretrain__ema": 0.9,
    "phases__prune__epochs": 1,
    "phases__finetune__objective": {"name": "mart", "steps": 2, "awp": 0.01},
    "phases__finetune__epochs": 1,
    "phases__finetune__ema": 0.9,
}


def test_a_run_of_the_new_parts_keeps_its_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hedgerow.training.loop.has_collapsed", lambda attacked, robust, best: best is None)
    result = run_one(recipe(**CHANGES), tmp_path / "run")
    assert [phase.objective for phase in result.phases] == [
        "free-at, replays 2",
        "fast-at, awp 0.01",
        "mart, steps 2, awp 0.01",
    ]
    kept, total = nonzeros(tmp_path / "run")
    assert (kept, total) == (result.sparsity.kept, result.sparsity.prunable)
    assert result.sparsity.counted == pytest.approx(0.9, abs=0.001)
    tensors, _ = read_tensors(tmp_path / "run" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())

    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in rows] == ["pretrain", "prune", "finetune"]
    assert all("robust accuracy has collapsed" in row["alarm"] for row in rows)
    assert all(0 <= row["attacked_accuracy"] <= 1 for row in rows)
    assert [phase.alarm_epoch for phase in load_result(tmp_path / "run").phases] == [1, 1, 1]
