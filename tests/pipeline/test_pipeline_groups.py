"""Whole runs of the methods that learn or move how much each layer keeps, on channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from run_cases import nonzeros, recipe

from hedgerow.errors import RecipeError
from hedgerow.files import read_tensors
from hedgerow.pipeline import run_one

ONE = {f"phases__{phase}__epochs": 1 for phase in ("pretrain", "finetune")}
HARP = {"pruning__gamma": 1.0, "pruning__start_density": 1.0}


@pytest.mark.parametrize(
    ("method", "options"), [("harp", HARP), ("harp", {"pruning__resource": "parameters"}), ("dnr", {})]
)
def test_a_run_on_channels_ends_in_whole_channels(tmp_path: Path, method: str, options: dict[str, Any]) -> None:
    asked = {"pruning__method": method, "pruning__granularity": "channel", "pruning__sparsity": 0.5}
    result = run_one(recipe(**ONE, **asked, **options), tmp_path / "run")
    assert result.sparsity.granularity == "channel"
    kept, total = nonzeros(tmp_path / "run")
    masks, _ = read_tensors(tmp_path / "run" / "masks.safetensors")
    assert kept <= sum(int(mask.sum()) for mask in masks.values()) < 0.75 * total
    for mask in masks.values():
        line = mask.bool().transpose(0, 1).flatten(1)
        assert (line.any(1) == line.all(1)).all()


def test_a_resource_that_is_none_is_refused_before_anything_runs() -> None:
    with pytest.raises(RecipeError, match="resource") as refused:
        recipe(pruning__method="harp", pruning__resource="bytes")
    assert "flops" in str(refused.value)
