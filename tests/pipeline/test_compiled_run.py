"""`compile: true` in a recipe: whole batches of every phase, and nothing else, go through the compiled network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from hedgerow.cli import main
from hedgerow.pipeline import run_one
from hedgerow.recipe import parse_recipe
from hedgerow.training import compiling, loop
from hedgerow.training.compiling import why_not

RECIPE: dict[str, Any] = {
    "name": "compiled",
    "compile": True,
    "data": {"source": "digits", "train_limit": 140, "test_limit": 20},
    "model": {"name": "cnn-small"},
    "threat": {"eps": 0.1},
    "objective": {"name": "pgd-at", "steps": 2, "step_size": 0.05},
    "pruning": {"method": "hydra", "sparsity": 0.8},
    "phases": {name: {"epochs": 1, "batch_size": 50} for name in ("pretrain", "prune", "finetune")},
    "evaluation": {"examples": 20, "autoattack": False, "pgd_steps": 2, "pgd_restarts": 1, "integrity": 0},
}


def test_whole_batches_of_every_phase_are_computed_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Counter[int]] = []

    def fake(model: nn.Module, device: torch.device) -> Callable[..., Tensor]:
        seen.append(Counter())

        def call(x: Tensor) -> Tensor:
            seen[-1][len(x)] += 1
            return model._call_impl(x)  # type: ignore[no-any-return]

        return call

    monkeypatch.setattr(loop, "compiled_call", fake)
    run_one(parse_recipe(RECIPE), tmp_path / "run")
    # 126 images: two batches of 50 and one of 26, which is not worth a program; two attack steps and the loss.
    assert seen == [{50: 6}] * 3
    assert "compile: true" in (tmp_path / "run" / "recipe.yaml").read_text(encoding="utf-8")


def test_a_machine_that_cannot_is_told_so_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump({**RECIPE, "compile": False}), encoding="utf-8")
    monkeypatch.setattr(compiling, "why_not", lambda kind: "no compiler")
    words = ["hedgerow", "run", str(recipe), "--set", "compile=true", "--out", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "cannot compile for this cpu (no compiler)" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_compiled_run_ends_where_one_that_is_not_does(tmp_path: Path) -> None:
    if reason := why_not("cpu"):
        pytest.skip(f"nothing compiles here: {reason}")
    records = [
        run_one(parse_recipe({**RECIPE, "compile": compiled}), tmp_path / str(compiled))
        for compiled in (False, True)
    ]
    plain, compiled = (record.evaluation for record in records)
    assert plain is not None
    assert compiled is not None
    assert sum(a != b for a, b in zip(plain.verdicts, compiled.verdicts, strict=True)) <= 1
    assert records[0].sparsity.counted == records[1].sparsity.counted
