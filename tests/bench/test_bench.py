"""What `hedgerow bench` and `hedgerow tune` measure, on networks whose cost is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from hedgerow.bench.counting import Flops
from hedgerow.bench.measure import bench, bench_lines, matmul_peak
from hedgerow.cli import main
from hedgerow.recipe import parse_recipe

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "data": {"source": "digits", "train_limit": 200, "test_limit": 20},
    "model": {"name": "cnn-small"},
    "threat": {"eps": 0.1},
    "objective": {"name": "pgd-at", "steps": 2, "step_size": 0.05},
    "pruning": {"method": "hydra", "sparsity": 0.8},
    "phases": {
        "pretrain": {"epochs": 3, "batch_size": 20, "objective": {"name": "natural"}},
        "prune": {"epochs": 1, "batch_size": 20},
        "finetune": {"epochs": 0, "batch_size": 20},
    },
}


def test_flops_of_a_forward_and_a_backward_are_those_of_its_products() -> None:
    layer, x = nn.Linear(5, 7, bias=False), torch.rand(3, 5)
    with Flops() as counter:
        layer(x).sum().backward()
    assert counter.total == 2 * (2 * 3 * 5 * 7)  # the product, and the gradient of the weight


def test_phases_that_train_are_timed() -> None:
    said: list[str] = []
    found = {phase.phase: phase for phase in bench(parse_recipe(RECIPE), steps=2, tell=said.append)}
    assert list(found) == ["pretrain", "prune"]
    assert said == ["pretrain ...", "prune ..."]
    for phase in found.values():
        assert phase.images_per_second == pytest.approx(20 / phase.seconds_per_step)
        assert phase.flops_per_second == pytest.approx(phase.flops_per_step / phase.seconds_per_step)
        assert 0 < phase.share_of_peak < 1
        assert phase.share_of_convolutions is not None
        assert phase.share_of_convolutions > 0
        assert sum(phase.shares.values()) == pytest.approx(1)
    # A natural step has 1 forward and the gradients of weights and inner values; two attack steps add four passes.
    ratio = found["prune"].flops_per_step / found["pretrain"].flops_per_step
    assert 2.0 < ratio < 2.6


def test_a_network_without_convolutions_has_no_share_of_them() -> None:
    recipe = {**RECIPE, "pruning": None, "model": {"factory": "bench_factories:linear", "normalize": False}}
    (phase,) = bench(parse_recipe(recipe), steps=1)
    assert phase.share_of_convolutions is None
    assert "convolutions" not in "".join(bench_lines([phase]))


def test_a_dense_recipe_has_one_phase() -> None:
    assert [phase.phase for phase in bench(parse_recipe({**RECIPE, "pruning": None}), steps=1)] == ["pretrain"]


def test_the_peak_is_a_products_speed() -> None:
    assert matmul_peak(torch.float32, torch.device("cpu")) > 1e8


def test_the_commands_print_and_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = tmp_path / "r.yaml", tmp_path / "bench.json"
    recipe.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["hedgerow", "bench", str(recipe), "--steps", "1", "--out", str(out)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert "images/s" in capsys.readouterr().out
    written = json.loads(out.read_text(encoding="utf-8"))
    assert [phase["phase"] for phase in written["phases"]] == ["pretrain", "prune"]
    assert written["machine"]["cores"] >= 1
