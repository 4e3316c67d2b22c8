"""One run by several real processes: the same network as by one, and no one waits for a process that is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hedgerow.files import read_tensors

RECIPE: dict[str, Any] = {
    "name": "shared",
    "data": {"source": "digits", "train_limit": 300, "test_limit": 40},
    "model": {"name": "cnn-small"},
    "threat": {"norm": "linf", "eps": 0.1},
    "objective": {"name": "pgd-at", "steps": 2, "step_size": 0.05},
    "pruning": {"method": "hydra", "sparsity": 0.8},
    "phases": {
        "pretrain": {"epochs": 2, "lr": 0.05, "batch_size": 50, "select": "best"},
        "prune": {"epochs": 1, "lr": 0.05, "batch_size": 50},
        "finetune": {"epochs": 1, "lr": 0.02, "batch_size": 50},
    },
    "evaluation": {"examples": 40, "batch_size": 20, "autoattack": False, "pgd_steps": 5, "pgd_restarts": 1},
}


NORMED = """
from torch import nn

def build(num_classes, channels):
    layers = [nn.Conv2d(channels, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    layers += [nn.Conv2d(8, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, num_classes))
"""


def start(recipe: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "hedgerow", "run", str(recipe), "--out", str(out), *options]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(recipe.parent), *sys.path]),
    }
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return out


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    (tmp_path / "normed.py").write_text(NORMED, encoding="utf-8")
    return path


def verdicts(folder: Path) -> list[str]:
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return list(result["evaluation"]["verdicts"])


@pytest.mark.parametrize(
    "settings", [(), ("--set", "sync_bn=true", "--set", "recompute=true", "--set", "model.factory=normed:build")]
)
def test_two_processes_make_the_network_that_one_makes(
    recipe: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    """The same images, noise and steps: what is left is the order in which float32 sums are taken."""
    out = finish(start(recipe, tmp_path / "two", "--devices", "2", *settings))
    assert out.count("page:") == 1, "one process speaks"
    finish(start(recipe, tmp_path / "one", *settings))
    one, two = tmp_path / "one", tmp_path / "two"
    masks, others = read_tensors(one / "masks.safetensors")[0], read_tensors(two / "masks.safetensors")[0]
    assert all(torch.equal(mask, others[name]) for name, mask in masks.items())
    weights, found = read_tensors(one / "model.safetensors")[0], read_tensors(two / "model.safetensors")[0]
    for name, weight in weights.items():
        assert torch.allclose(found[name], weight, atol=2e-3), name
    epochs = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        for folder in (one, two)
    ]
    assert len(epochs[0]) == len(epochs[1]) == 4
    for a, b in zip(*epochs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["train_accuracy"] == pytest.approx(b["train_accuracy"], abs=0.02)
    agreeing = sum(a == b for a, b in zip(verdicts(one), verdicts(two), strict=True))
    assert agreeing >= 38
    assert len(list((two / "evaluation").glob("*.safetensors"))) == 2


def test_when_a_process_is_killed_the_other_stops_and_one_alone_goes_on(recipe: Path, tmp_path: Path) -> None:
    longer = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    longer["phases"]["pretrain"]["epochs"] = 400
    recipe.write_text(yaml.safe_dump(longer), encoding="utf-8")
    out = tmp_path / "killed"
    first = start(recipe, out, "--devices", "2")
    checkpoint = out / "checkpoints" / "pretrain-last.pt"
    deadline = time.monotonic() + 240
    while not checkpoint.exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert checkpoint.exists()
    (child,) = subprocess.run(
        ["ps", "--ppid", str(first.pid), "-o", "pid="], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(child), signal.SIGKILL)
    killed = time.monotonic()
    _, errors = first.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert first.returncode != 0
    assert "another process of this run has ended" in errors
    assert "Traceback" not in errors
    with (out / "metrics.jsonl").open(encoding="utf-8") as lines:
        done = sum(1 for _ in lines)
    alone = subprocess.Popen(
        [sys.executable, "-m", "hedgerow", "resume", str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = alone.stderr.readline() if alone.stderr else ""
        while "pretrain" not in line and line:
            line = alone.stderr.readline() if alone.stderr else ""
        assert int(line.split("pretrain ")[1].partition("/")[0]) in (done, done + 1)
    finally:
        alone.kill()
        alone.communicate()


def test_sharing_a_run_and_running_several_at_a_time_is_refused(recipe: Path, tmp_path: Path) -> None:
    process = start(recipe, tmp_path / "refused", "--devices", "2", "--jobs", "2")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "give one of them" in errors
    assert "Traceback" not in errors
