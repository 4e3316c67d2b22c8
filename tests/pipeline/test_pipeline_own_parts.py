"""A user's own network, weights and data through the whole pipeline; a robust sub-network; evaluation again."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import run_cases
import torch
from run_cases import network, nonzeros

from hedgerow import measuring
from hedgerow.errors import CheckpointError, ModelError, RecipeError
from hedgerow.files import read_tensors
from hedgerow.grid import run
from hedgerow.physical import physical
from hedgerow.pipeline import model_of, run_one
from hedgerow.recipe import apply, load_recipe, parse_recipe
from hedgerow.reevaluate import evaluate_target
from hedgerow.result import Evaluation, load_result
from hedgerow.runfolder import load_weights

NETS = """
from torch import nn

def make(num_classes, channels, width=4):
    return nn.Sequential(
        nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(),
        nn.Linear(36 * width, num_classes),
    )
"""

Own = Callable[[str, str], None]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Own:
    """Write a module into the working directory, which is a new one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return lambda name, text: (tmp_path / f"{name}.py").write_text(text) and None


@pytest.mark.parametrize("method", ["hydra", "magnitude"])
def test_a_users_own_network_from_end_to_end(own: Own, tmp_path: Path, method: str) -> None:
    own("own_nets_pipeline", NETS)
    factory = {"factory": "own_nets_pipeline:make", "options": {"width": 6}}
    recipe = run_cases.recipe(model=factory, pruning__method=method)
    run(recipe, tmp_path / "run")
    result = load_result(tmp_path / "run")
    tensors, _ = read_tensors(tmp_path / "run" / "model.safetensors")
    assert "1.running_mean" in tensors  # the keys are the user's: no wrapper, no normalisation of ours
    assert set(read_tensors(tmp_path / "run" / "masks.safetensors")[0]) == {"0.weight", "4.weight"}
    assert result.model == "own_nets_pipeline:make"
    assert (result.sparsity.kept, result.sparsity.prunable) == nonzeros(tmp_path / "run")
    assert result.sparsity.prunable == 6 * 9 + 36 * 6 * 10
    from own_nets_pipeline import make  # type: ignore[import-not-found]

    plain = make(10, 1, width=6)
    plain.load_state_dict(tensors)
    x = torch.rand(5, 1, 8, 8)
    model = model_of(recipe, run_cases_dataset())
    load_weights(model, tmp_path / "run" / "model.safetensors")
    assert torch.equal(plain.eval()(x), model.eval()(x))


def run_cases_dataset() -> object:
    from hedgerow.pipeline import dataset_of

    return dataset_of(run_cases.recipe())


def test_own_weights_are_where_training_starts(finished: Path, tmp_path: Path) -> None:
    weights = finished / "checkpoints" / "pretrain.safetensors"
    state = {k[6:]: v for k, v in read_tensors(weights)[0].items() if k.startswith("model:")}
    torch.save({"state_dict": state}, tmp_path / "mine.pt")
    recipe = run_cases.recipe(model__weights=str(tmp_path / "mine.pt"), phases__pretrain__epochs=0)
    run_one(recipe, tmp_path / "run")
    assert network(tmp_path / "run") == network(finished)  # 0 epochs on these weights is the pretraining


@pytest.mark.parametrize(
    "state", [{"a": torch.zeros(2)}, {"state_dict": 5}, {"state_dict": {"network.0.weight": 1}}]
)
def test_own_weights_of_another_network_are_refused_before_anything_runs(
    tmp_path: Path, state: dict[str, object]
) -> None:
    torch.save(state, tmp_path / "mine.pt")
    with pytest.raises(ModelError, match=r"mine\.pt: these weights are of another network"):
        run_one(run_cases.recipe(model__weights=str(tmp_path / "mine.pt")), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_robust_subnetwork_keeps_the_natural_networks_weights_exactly(tmp_path: Path) -> None:
    raw = load_recipe("digits-robust-subnetwork").dump()
    small = {
        "device": "cpu",
        "data.train_limit": 200,
        "model.name": "cnn-small",
        "objective.steps": 2,
        "phases.pretrain.epochs": 2,
        "phases.prune.epochs": 2,
        "evaluation": {"examples": 10, "pgd_steps": 2, "pgd_restarts": 1, "autoattack": False},
    }
    run_one(parse_recipe(apply(raw, small)), tmp_path)
    natural = read_tensors(tmp_path / "checkpoints" / "pretrain.safetensors")[0]
    masks = read_tensors(tmp_path / "masks.safetensors")[0]
    found = read_tensors(tmp_path / "model.safetensors")[0]
    assert len(masks) == 4
    moved = 0
    for name, tensor in found.items():
        before = natural[f"model:{name}"]
        if name not in masks:
            assert torch.equal(tensor, before)
            continue
        kept = masks[name].bool()
        assert int(kept.sum()) == kept.numel() - kept.numel() // 2
        assert torch.equal(tensor, torch.where(kept, before, torch.zeros(())))
        by_magnitude = before.abs() > before.abs().flatten().median()
        moved += int((kept != by_magnitude).sum())
    assert moved > 10  # the choice was learned, and is not that of the magnitudes
    result = load_result(tmp_path)
    assert [p.objective for p in result.phases] == ["natural", "pgd-at, steps 2", "pgd-at, steps 2"]


def accuracies(record: Evaluation | None) -> dict[str, int]:
    assert record is not None
    return {name: measure.correct for name, measure in record.measures.items()}


def test_evaluating_a_run_folder_again(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    before = load_result(folder)
    again = evaluate_target(folder, None, {}, tmp_path / "record.json")
    assert again.verdicts == before.evaluation.verdicts  # type: ignore[union-attr]
    assert Evaluation.model_validate_json((tmp_path / "record.json").read_text()) == again
    more = evaluate_target(folder, None, {"evaluation.examples": 30, "threat.eps": "0"}, None)
    assert more.measures["pgd"].correct == more.measures["clean"].correct
    assert load_result(folder).evaluation == more
    assert load_result(folder).sparsity == before.sparsity
    assert network(folder) == network(finished)


def test_a_network_is_evaluated_in_the_memory_format_it_was_trained_in(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.nn.Module] = []

    def noted(model: torch.nn.Module, *arguments: Any, **options: Any) -> Any:
        seen.append(model)
        return physical(model, *arguments, **options)

    monkeypatch.setattr(measuring, "physical", noted)
    folder = shutil.copytree(finished, tmp_path / "copy")
    evaluate_target(folder, None, {"channels_last": True, "evaluation.examples": 10}, None)
    (model,) = seen
    kernels = [w for w in model.parameters() if w.dim() == 4 and min(w.shape) > 1]
    assert kernels
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in kernels)


def test_evaluating_a_file_of_weights(finished: Path, tmp_path: Path) -> None:
    weights = shutil.copy(finished / "model.safetensors", tmp_path / "mine.safetensors")
    recipe = finished / "recipe.yaml"
    record = evaluate_target(Path(weights), str(recipe), {}, tmp_path / "record.json")
    assert accuracies(record) == accuracies(load_result(finished).evaluation)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine-evaluation", "mine.safetensors", "record.json"]


def test_what_cannot_be_evaluated(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="a file of weights needs --recipe"):
        evaluate_target(finished / "model.safetensors", None, {}, None)
    with pytest.raises(CheckpointError, match="no such"):
        evaluate_target(tmp_path / "gone.pt", str(finished / "recipe.yaml"), {}, None)
    folder = shutil.copytree(finished, tmp_path / "copy")
    (folder / "result.json").unlink()
    with pytest.raises(CheckpointError, match="the run is unfinished"):
        evaluate_target(folder, None, {}, None)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has no finished network yet: hedgerow resume"):
        evaluate_target(folder, None, {}, None)
