"""Whole runs on a folder of Tiny-ImageNet's form, its images decoded by worker processes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import run_cases
from PIL import Image

from hedgerow.cli import main
from hedgerow.errors import DataError, RecipeError
from hedgerow.pipeline import run_one
from hedgerow.recipe import Recipe

WNIDS = ("n02123045", "n01440764", "n07734744")
DATA: Mapping[str, Any] = {"source": "tiny-imagenet", "image_size": 8, "workers": 2, "validation": 6}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "tiny-imagenet-200"
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(WNIDS))
    lines = []
    for k, wnid in enumerate(WNIDS):
        (root / "train" / wnid / "images").mkdir(parents=True)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t62\t63\n")
        for i in range(20):
            picture = Image.new("RGB", (64, 64), tuple(200 if c == k else 3 * i for c in range(3)))
            picture.save(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG")
            if i < 8:
                picture.save(root / "val" / "images" / f"val_{8 * k + i}.JPEG")
                lines.append(f"val_{8 * k + i}.JPEG\t{wnid}\t0\t0\t62\t63")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines))
    return root


def recipe(root: Path, **changes: Any) -> Recipe:
    data = {**DATA, "path": str(root), "augment": ["resized-crop", "flip"], **changes.pop("data", {})}
    return run_cases.recipe(data=data, evaluation__examples=12, **changes)


def test_a_run_from_the_command_line(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(recipe(root, objective={"name": "free-at", "replays": 2}).to_yaml())
    out = tmp_path / "run"
    words = ["hedgerow", "run", str(tmp_path / "tiny.yaml"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, capfd.readouterr().err
    result = json.loads((out / "result.json").read_text())
    assert result["dataset"] == "Tiny-ImageNet"
    assert result["classes"] == sorted(WNIDS)
    assert result["split_sizes"] == {"train": 54, "validation": 6, "test": 24}
    assert len(result["evaluation"]["examples"]) == 12
    assert {"prune", "pretrain", "finetune"} == {phase["name"] for phase in result["phases"]}
    assert result["evaluation"]["measures"]["clean"]["accuracy"] > 0.6, "the classes differ in colour alone"
    assert (out / "report.html").exists()


def test_the_number_of_workers_changes_no_network(root: Path, tmp_path: Path) -> None:
    for workers in (0, 1):
        run_one(recipe(root, data={"workers": workers}), tmp_path / f"run{workers}")
    assert run_cases.network(tmp_path / "run0") == run_cases.network(tmp_path / "run1")


def test_what_memory_has_no_room_for_is_refused_before_anything_is_trained(root: Path, tmp_path: Path) -> None:
    one = 4 * 3 * 8 * 8 / 2**30
    with pytest.raises(
        DataError, match=r"evaluation of 12 images: at 8x8 .* set evaluation.examples lower, or data.m"
    ):
        run_one(recipe(root, data={"memory": 11 * one}), tmp_path / "run")
    with pytest.raises(DataError, match=r"validation of 6 images: at 8x8 .* set data.validation lower"):
        run_one(recipe(root, data={"memory": 5 * one}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_broken_training_image_stops_the_run_by_name(root: Path, tmp_path: Path) -> None:
    images = root / "train" / WNIDS[0] / "images"
    for file in images.iterdir():
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(
        DataError, match=rf"images cannot be read; repair or remove them\n  - .*{WNIDS[0]}_\d+.JPEG"
    ):
        run_one(recipe(root, model={"name": "cnn-small", "normalize": False}), tmp_path / "run")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"worker": 2}, "data.worker: unknown key (value 2); did you mean 'workers'?"),
        ({"workers": 1.5}, "data.workers = 1.5: Input should be a valid integer"),
        ({"image_size": "big"}, "data.image_size = 'big': Input should be a valid integer"),
    ],
)
def test_keys_of_the_source_are_checked_with_the_recipe(root: Path, data: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(root, data=data)
    assert any(problem.startswith(words) for problem in caught.value.problems)
