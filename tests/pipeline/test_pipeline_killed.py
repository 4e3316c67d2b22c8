"""An evaluation killed at a random moment and resumed ends with the same file, byte for byte apart from times."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hedgerow.cli import main

OWN = """
import torch
from torch import nn
from hedgerow.data import Split
from hedgerow.data.sources import Raw
from sklearn.datasets import load_digits

def images():
    digits = load_digits()
    x = torch.tensor(digits.images * 255 / 16).round().to(torch.uint8)[:, None]
    y = torch.tensor(digits.target, dtype=torch.int64)
    return Raw("digits", tuple("0123456789"), Split(x[1200:], y[1200:]), Split(x[:1200], y[:1200]))

def net():
    # Every image lies close to the mean of its class: a classifier that needs no training.
    raw = images()
    x, y = raw.test.images.flatten(1).float() / 255, raw.test.labels
    means = torch.stack([x[y == c].mean(0) for c in range(10)])
    layer = nn.Linear(64, 10)
    with torch.no_grad():
        layer.weight.copy_(20 * means)
        layer.bias.copy_(-10 * means.square().sum(1))
    return nn.Sequential(nn.Flatten(), layer)
"""


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, list[str]], None]:
    """Return a function that runs the command in this process, in a folder."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(folder: Path, given: list[str]) -> None:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["hedgerow", *given])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code

    return call


def words(examples: int, batch: int, steps: int) -> list[str]:
    settings = {
        "evaluation.autoattack": "false",
        "evaluation.pgd_steps": steps,
        "evaluation.pgd_restarts": 2,
        "evaluation.batch_size": batch,
        "evaluation.integrity": 10,
        "evaluation.gallery": 2,
        "device": "cpu",
    }
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    given = ["--data", "own_killed:images", "--eps", "0.1", "--examples", str(examples)]
    return ["evaluate", "own_killed:net", *given, *changes]


def result_of(folder: Path) -> str:
    text = (folder / "own_killed.net-evaluation" / "evaluation.json").read_text(encoding="utf-8")
    return re.sub(r'"seconds": [^,\n]+', '"seconds": 0', text)


def killed_and_resumed(
    tmp_path: Path, here: Callable[[Path, list[str]], None], given: list[str], count: int
) -> int:
    """Kill an evaluation of `count` batches; return how many there were of them."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        (folder / "own_killed.py").write_text(OWN)
    here(whole, given)
    kept = killed / "own_killed.net-evaluation" / "evaluation"
    after, wait = random.randint(1, count - 5), random.random() * 0.02
    process = subprocess.Popen(
        [sys.executable, "-m", "hedgerow", *given],
        cwd=killed,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    limit = time.monotonic() + 300
    while len(list(kept.glob("chunk-*.safetensors"))) < after:
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.002)
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    found = len(list(kept.glob("chunk-*.safetensors")))
    assert not (kept.parent / "evaluation.json").exists()
    before = {path: path.stat().st_mtime_ns for path in kept.glob("chunk-*.safetensors")}
    here(killed, given)
    assert all(path.stat().st_mtime_ns == time_of for path, time_of in before.items()), "computed twice"
    assert result_of(killed) == result_of(whole), f"killed after {after} batches and {wait:.4f} s"
    assert '"correct": 0,' not in result_of(whole).partition("verdicts")[0]
    return found


def test_killed_and_resumed(tmp_path: Path, here: Callable[[Path, list[str]], None]) -> None:
    assert 0 < killed_and_resumed(tmp_path, here, words(examples=80, batch=4, steps=10), count=20) < 20


@pytest.mark.slow
def test_a_thousand_examples_killed_and_resumed(tmp_path: Path, here: Callable[[Path, list[str]], None]) -> None:
    found = killed_and_resumed(tmp_path, here, words(examples=1000, batch=10, steps=40), count=100)
    assert 0 < found < 100
    print(f"killed with {found} of 100 batches done")
