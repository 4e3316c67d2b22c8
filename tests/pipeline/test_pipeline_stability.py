"""A run that trains for decided ReLUs and prunes channels by them, and one that cannot."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from run_cases import recipe

from hedgerow.errors import ModelError
from hedgerow.files import read_tensors
from hedgerow.grid import run
from hedgerow.pipeline import dataset_of, model_of, run_one
from hedgerow.pruners.stability import Stability
from hedgerow.sparsity import Budget

CERTIFIED = {"name": "ibp", "stability": 0.01}
LATER = {**CERTIFIED, "warmup": 0, "ramp": 0}
CHANGES = {
    "objective": CERTIFIED,
    "model": {"name": "cnn-small"},
    "threat__eps": 0.05,
    "pruning": {"method": "stability", "granularity": "channel", "images": 20, "sparsity": 0.5},
    "phases__pretrain__epochs": 2,
    "phases__finetune__epochs": 1,
    "phases__finetune__objective": LATER,
    "phases__finetune__lr": 0.01,
}


def test_channels_go_by_the_bounds_of_the_recipes_attacker(tmp_path: Path) -> None:
    asked = recipe(**CHANGES)
    result = run_one(asked, tmp_path)
    assert [phase.epochs for phase in result.phases] == [2, 0, 1]
    assert result.phases[0].objective == "ibp, stability 0.01"
    assert (result.method, result.sparsity.granularity) == ("stability", "channel")

    data = dataset_of(asked)
    model = model_of(asked, data)
    trained, _ = read_tensors(tmp_path / "checkpoints" / "pretrain.safetensors")
    model.load_state_dict({k[6:]: v for k, v in trained.items() if k.startswith("model:")})
    pruner = Stability(asked.threat.build(), images=20)
    pruner.attach(model, Budget("1/2"), example=data.train.take(20, asked.seed).pixels())
    found, _ = read_tensors(tmp_path / "masks.safetensors")
    expected = pruner.finish()
    assert all(torch.equal(found[name].bool(), mask) for name, mask in expected.items())
    assert not all(mask.all() for mask in expected.values())

    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in rows] == ["pretrain", "pretrain", "finetune"]
    assert all(-0.01 <= row["stability"] <= 0.01 for row in rows)
    assert rows[-1]["stability"] != 0


def test_a_network_without_bounds_is_refused_before_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "smooth_nets.py").write_text(
        "from torch import nn\n"
        "def make(num_classes, channels):\n"
        "    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.GELU(), nn.Flatten(),\n"
        "                         nn.Linear(144, num_classes))\n"
    )
    message = "method stability: no bounds for this network: gelu in '1': no bounds are known for it"
    asked = recipe(pruning=CHANGES["pruning"], model={"factory": "smooth_nets:make"})
    with pytest.raises(ModelError, match=message):
        run_one(asked, tmp_path / "run")
    grid = {"pruning.method": ["magnitude", "stability"]}
    with pytest.raises(ModelError, match=message):
        run(recipe(model={"factory": "smooth_nets:make"}, grid=grid), tmp_path / "grid")
    assert list(tmp_path.rglob("metrics.jsonl")) == []
