"""A whole run in a folder: what it leaves, that it is done once, and that it survives being killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import run_cases
import torch
from run_cases import files_of, network, nonzeros

from hedgerow.errors import CheckpointError, RecipeError
from hedgerow.files import read_tensors
from hedgerow.gallery import worth_showing
from hedgerow.grid import run
from hedgerow.pipeline import run_one
from hedgerow.result import load_result
from hedgerow.runfolder import RunFolder, one_writer
from hedgerow.training import read_metrics


def test_the_folder_of_a_run_has_everything_and_no_leftovers(finished: Path) -> None:
    names = {p.name for p in finished.iterdir()}
    assert names == {
        ".lock",
        "recipe.yaml",
        "metrics.jsonl",
        "checkpoints",
        "model.safetensors",
        "masks.safetensors",
        "evaluation",
        "gallery.safetensors",
        "result.json",
        "report.html",
    }
    phases = {"pretrain.safetensors", "prune.safetensors", "finetune.safetensors"}
    assert {p.name for p in (finished / "checkpoints").iterdir()} == phases
    assert RunFolder(finished).read_recipe() == run_cases.recipe()
    rows = [(m["phase"], m["epoch"]) for m in read_metrics(finished / "metrics.jsonl")]
    assert rows == [(p, e) for p, n in (("pretrain", 3), ("prune", 2), ("finetune", 2)) for e in range(1, n + 1)]


def test_the_counted_sparsity_is_that_of_the_file(finished: Path) -> None:
    result = load_result(finished)
    kept, total = nonzeros(finished)
    assert (result.sparsity.kept, result.sparsity.prunable) == (kept, total)
    assert result.sparsity.counted == pytest.approx(0.9, abs=1e-3)
    assert result.sparsity.asked == 0.9
    tensors, _ = read_tensors(finished / "model.safetensors")
    masks, _ = read_tensors(finished / "masks.safetensors")
    assert [layer.name for layer in result.sparsity.layers] == [n for n in tensors if n in masks]
    for layer in result.sparsity.layers:
        assert masks[layer.name].dtype == torch.uint8
        assert torch.equal(tensors[layer.name] != 0, masks[layer.name].bool())
        assert layer.kept == layer.total - layer.total * 9 // 10 == int(masks[layer.name].sum())


def test_the_result_says_what_was_run(finished: Path) -> None:
    result = load_result(finished / "result.json")
    assert result == load_result(finished)
    assert (result.name, result.method, result.model) == ("tiny", "hydra", "cnn-small")
    assert result.command == "hedgerow run tiny.yaml"
    assert result.recipe == run_cases.recipe().dump()
    assert result.split_sizes == {"train": 160, "validation": 40, "test": 60}
    assert [(p.name, p.epochs) for p in result.phases] == [("pretrain", 3), ("prune", 2), ("finetune", 2)]
    assert result.phases[1].selected_epoch == 2  # the last one, as the recipe's default says
    assert result.evaluation is not None
    assert (result.evaluation.split, result.evaluation.threat) == ("test", "linf 1/10")
    assert len(set(result.evaluation.examples)) == len(result.evaluation.verdicts) == 20
    assert set(result.evaluation.measures) == {"clean", "pgd", "worst_case"}
    assert all(m.n == 20 for m in result.evaluation.measures.values())
    assert result.evaluation.suspect == []
    assert "gradients are not zero" in result.evaluation.checks


def test_the_report_needs_nothing_from_elsewhere(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    loads = re.findall(r"""(?:src|href|data|action)\s*=\s*["']?([^"'\s>]+)|url\(([^)]+)\)|@import\s+(\S+)""", page)
    targets = [t for match in loads for t in match if t]
    assert all(t.startswith(("#", "data:")) for t in targets)
    assert "<script src" not in page
    assert "tiny" in page
    assert "hedgerow run tiny.yaml" in page


def test_running_a_finished_run_again_touches_nothing(finished: Path) -> None:
    before = files_of(finished)
    (result,) = run(run_cases.recipe(), finished)
    assert result == load_result(finished)
    assert files_of(finished) == before


def test_a_finished_run_needs_neither_its_checkpoints_nor_its_data(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    shutil.rmtree(folder / "checkpoints")
    before = files_of(folder)
    run(run_cases.recipe(), folder)
    assert files_of(folder) == before


def test_a_run_equals_itself_elsewhere(finished: Path, tmp_path: Path) -> None:
    run_one(run_cases.recipe(), tmp_path / "again")
    assert network(tmp_path / "again") == network(finished)
    one, other = load_result(finished).evaluation, load_result(tmp_path / "again").evaluation
    assert one is not None
    assert other is not None
    assert one.verdicts == other.verdicts


def test_a_killed_run_ends_like_one_that_was_not(finished: Path, tmp_path: Path) -> None:
    folder, recipe = tmp_path / "run", tmp_path / "tiny.yaml"
    recipe.write_text(run_cases.recipe().to_yaml(), encoding="utf-8")
    words = [sys.executable, "-m", "hedgerow", "run", str(recipe), "--out", str(folder)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, env=environment, **quiet) as child:  # type: ignore[call-overload]
        deadline = time.monotonic() + 100
        while not read_metrics(folder / "metrics.jsonl") and time.monotonic() < deadline:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert not (folder / "result.json").exists()
    assert len(read_metrics(folder / "metrics.jsonl")) < 7
    (result,) = run(RunFolder(folder).read_recipe(), folder)
    assert network(folder) == network(finished)
    rows = [(m["phase"], m["epoch"], m["loss"], m["robust"]) for m in read_metrics(folder / "metrics.jsonl")]
    whole = read_metrics(finished / "metrics.jsonl")
    assert rows == [(m["phase"], m["epoch"], m["loss"], m["robust"]) for m in whole]
    assert result.evaluation is not None
    assert result.evaluation.verdicts == load_result(finished).evaluation.verdicts  # type: ignore[union-attr]


@pytest.mark.parametrize("lost", ["finetune", "prune"])
def test_each_finished_phase_is_kept_and_not_trained_again(finished: Path, tmp_path: Path, lost: str) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    (folder / "result.json").unlink()
    (folder / "model.safetensors").unlink()
    for phase in ("prune", "finetune") if lost == "prune" else ("finetune",):
        (folder / "checkpoints" / f"{phase}.safetensors").unlink()
    kept = {p.name: p.stat().st_mtime_ns for p in (folder / "checkpoints").iterdir()}
    run(run_cases.recipe(), folder)
    assert network(folder) == network(finished)
    after = {p.name: p.stat().st_mtime_ns for p in (folder / "checkpoints").iterdir()}
    assert {name: after[name] for name in kept} == kept


def test_another_recipe_in_the_same_folder_is_refused(finished: Path) -> None:
    before = files_of(finished)
    with pytest.raises(RecipeError, match="holds a run of another recipe; give another --out") as caught:
        run(run_cases.recipe(seed=2), finished)
    assert f"hedgerow resume {finished}" in str(caught.value)
    assert files_of(finished) == before


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(RecipeError, match="cannot be a folder"):
        run(run_cases.recipe(), tmp_path / "file")
    with pytest.raises(RecipeError, match="cannot be a folder"):
        run(run_cases.recipe(), tmp_path / "file" / "inside")
    assert (tmp_path / "file").read_text() == "precious"


def test_a_second_process_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from hedgerow.runfolder import one_writer\n"
        "with one_writer(pathlib.Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "in\n"
        with pytest.raises(CheckpointError, match="another process is working in this run folder"):
            run(run_cases.recipe(), tmp_path / "run")
        child.kill()
    assert not (tmp_path / "run" / "recipe.yaml").exists()
    with one_writer(tmp_path / "run"):  # a lock dies with its process
        pass


def test_a_result_cut_short_is_named(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    text = (folder / "result.json").read_text()
    (folder / "result.json").write_text(text[: len(text) // 2])
    with pytest.raises(CheckpointError, match=r"result\.json: not a result of schema 2 .*cut short.*delete it"):
        run(run_cases.recipe(), folder)
    (folder / "result.json").write_text(json.dumps({**json.loads(text), "schema_version": "two"}))
    with pytest.raises(CheckpointError, match=r"not a result of schema 2 \(schema_version: "):
        load_result(folder)
    (folder / "result.json").unlink()
    with pytest.raises(CheckpointError, match="the run is unfinished: `hedgerow resume"):
        load_result(folder)
    run(run_cases.recipe(), folder)
    assert load_result(folder).sparsity == load_result(finished).sparsity


def test_a_phase_file_cut_short_or_of_another_network_is_named(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    (folder / "result.json").unlink()
    phase = folder / "checkpoints" / "prune.safetensors"
    whole = phase.read_bytes()
    phase.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"prune\.safetensors: not a whole safetensors file .*Delete it"):
        run(run_cases.recipe(), folder)
    phase.unlink()
    (folder / "checkpoints" / "finetune.safetensors").unlink()
    run(run_cases.recipe(), folder)
    assert network(folder) == network(finished)


def test_a_recipe_spoilt_in_its_folder_is_named(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    (folder / "recipe.yaml").write_text("name: [")
    with pytest.raises(RecipeError, match=r"recipe\.yaml: 1 problem\n  - not valid YAML"):
        RunFolder(folder).read_recipe()
    (folder / "recipe.yaml").write_text("- a\n")
    with pytest.raises(RecipeError, match="name: required, and missing"):
        RunFolder(folder).read_recipe()


def test_the_gallery_takes_the_classes_in_turn_and_attacked_images_first() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    right = torch.tensor([False, True, True, True, True, False])
    assert worth_showing(labels, right, 10).tolist() == [1, 3, 2, 4, 0, 5]
    assert worth_showing(labels, right, 3).tolist() == [1, 3, 2]
    assert worth_showing(labels, right, 0).tolist() == []
