"""Stochastic networks under evaluation: seeded, resumable, judged by the mean of draws; every number says so."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pyautoattack
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.errors import ModelError, RecipeError
from hedgerow.evaluation import Evaluated, Protocol, chunks, evaluate, quick_accuracy
from hedgerow.models.en_resnet import BlockNoise
from hedgerow.pipeline import run_one
from hedgerow.recipe import parse_recipe
from hedgerow.stochastic import Averaged

N, SIZE = 24, 9
PROTOCOL = Protocol(
    pgd_steps=3, pgd_restarts=2, autoattack=False, batch_size=SIZE, eot=2, draws=3, seed=5, integrity=0
)


class Unsaid(nn.Module):
    """Drops pixels in every mode, and does not say so."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(F.dropout(x, 0.2, training=True))


@pytest.fixture
def noisy(trained) -> nn.Module:
    """The trained network with noise after its first convolution."""
    first, *others = trained.model
    return nn.Sequential(first, BlockNoise(0.3), *others).eval()


def run(trained: Any, model: nn.Module, folder: Path | None = None, **changes: Any) -> Evaluated:
    protocol = dataclasses.replace(PROTOCOL, **changes)
    return evaluate(model, trained.x[:N], trained.y[:N], threat=trained.threat, protocol=protocol, folder=folder)


def plain(found: Evaluated) -> dict[str, Any]:
    record = found.record.model_dump()
    for measure in record["measures"].values():
        del measure["seconds"]
    return record


def same(one: Evaluated, other: Evaluated) -> bool:
    return plain(one) == plain(other) and torch.equal(one.adversarial, other.adversarial)


def ways(found: Evaluated) -> dict[str, str]:
    return {name: measure.how for name, measure in found.record.measures.items()}


def test_a_seed_gives_the_same_evaluation_and_disturbs_nothing(trained, noisy) -> None:
    state = torch.get_rng_state()
    first = run(trained, noisy.train())
    assert noisy.training
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert same(run(trained, noisy), first)
    assert not torch.equal(run(trained, noisy, seed=6).adversarial, first.adversarial)
    measures = first.record.measures
    assert 0 < measures["worst_case"].correct < measures["clean"].correct
    assert all(check.passed for check in first.record.checks.values())


def test_every_number_says_how_often_was_drawn(trained, noisy) -> None:
    judge = "stochastic model, predictions by the mean logits of 3 draws, seed 5, the same for all images"
    how = ways(run(trained, noisy))
    assert all(words.endswith(f"; {judge}") for words in how.values())
    assert "2 random restarts, EOT 2, linf 1/8; " in how["pgd"]
    assert "by 1 draw, seed 5" in ways(run(trained, noisy, draws=1))["clean"]
    default = ways(run(trained, noisy, eot=None, draws=None, pgd_steps=1, pgd_restarts=1))
    assert "EOT 10" in default["pgd"]
    assert "mean logits of 10 draws" in default["clean"]


def test_verdicts_are_those_of_the_mean_of_the_draws(trained, noisy) -> None:
    found = run(trained, noisy)
    y, judge = trained.y[:N], Averaged(noisy, draws=3, seed=5)
    with torch.no_grad():
        clean, broken = judge(trained.x[:N]).argmax(1), judge(found.adversarial).argmax(1)
    assert torch.equal(found.clean_predictions, clean)
    assert torch.equal(found.adversarial_predictions, broken)
    expected = [
        "misclassified" if c != label else "broken by pgd" if b != label else "robust"
        for c, b, label in zip(clean, broken, y, strict=True)
    ]
    assert found.record.verdicts == expected


def test_clean_predictions_do_not_depend_on_the_batch_size(trained, noisy) -> None:
    runs = [run(trained, noisy, batch_size=size, pgd_steps=1).clean_predictions for size in (1, 7, N)]
    assert all(torch.equal(other, runs[0]) for other in runs[1:])


def test_kept_batches_serve_the_same_draws_only(trained, noisy, tmp_path, monkeypatch) -> None:
    attacks = []
    original = chunks.pgd
    monkeypatch.setattr(chunks, "pgd", lambda *a, **k: attacks.append(1) or original(*a, **k))

    def again(model: nn.Module = noisy, **changes: Any) -> tuple[Evaluated, int]:
        attacks.clear()
        return run(trained, model, tmp_path, **changes), len(attacks)

    first, count = again()
    assert count == 3
    assert same(first, run(trained, noisy))
    (tmp_path / "chunk-0001.safetensors").unlink()
    resumed, count = again()
    assert count == 1
    assert same(resumed, first)
    for changes in ({"eot": 1}, {"draws": 2}, {"seed": 6}):
        assert again(**changes)[1] == 3
    louder = nn.Sequential(noisy[0], BlockNoise(0.4), *noisy[2:]).eval()
    assert again(louder)[1] == 3


def test_draws_say_nothing_of_a_deterministic_model(trained, tmp_path) -> None:
    found = run(trained, trained.model, tmp_path)
    assert not any("stochastic" in words or "EOT" in words for words in ways(found).values())
    kept = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    other = run(trained, trained.model, tmp_path, eot=None, draws=None)
    assert same(other, found)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == kept
    first, *others = trained.model
    silent = nn.Sequential(first, BlockNoise(0.0), *others).eval()
    assert same(run(trained, silent), found)


def test_a_model_that_does_not_say_so_is_found_out(trained) -> None:
    model = Unsaid(trained.model)
    found = run(trained, model)
    assert same(run(trained, model), found)
    assert all("mean logits of 3 draws" in words for words in ways(found).values())
    assert all("others for each place of a batch" in words for words in ways(found).values())


def test_a_model_that_is_averaged_already_keeps_its_settings(trained, noisy) -> None:
    found = run(trained, Averaged(noisy, eot=1, draws=2, seed=9))
    assert "EOT 1, " in ways(found)["pgd"]
    assert "mean logits of 2 draws, seed 9" in ways(found)["clean"]


def test_autoattack_is_called_rand(trained, noisy, monkeypatch) -> None:
    original = pyautoattack.AutoAttack

    def short(*given: Any, **options: Any) -> Any:
        attack = original(*given, **options)
        assert attack.version == "rand"
        attack.apgd.n_iter = 3
        return attack

    monkeypatch.setattr(pyautoattack, "AutoAttack", short)
    found = run(trained, noisy, autoattack=True, batch_size=N)
    words = ways(found)["autoattack"]
    assert words.startswith("AutoAttack rand (pyautoattack ")
    assert "standard" not in words
    assert found.record.measures["autoattack"].correct < found.record.measures["clean"].correct
    assert same(run(trained, noisy, autoattack=True, batch_size=N), found)


def test_quick_accuracy_is_a_function_of_the_seed(trained, noisy) -> None:
    x, y = trained.x[:N], trained.y[:N]

    def quick(seed: int, scale: float) -> dict[str, float]:
        noisy[1].scale = scale
        return quick_accuracy(noisy, x, y, threat=trained.threat, steps=2, seed=seed)

    assert quick(1, 0.3) == quick(1, 0.3)
    assert quick(1, 3.0) != quick(2, 3.0)
    assert quick(1, 0.0) == quick_accuracy(trained.model, x, y, threat=trained.threat, steps=2, seed=1)


@pytest.mark.parametrize("key", ["eot", "draws"])
def test_counts_below_one_are_refused(trained, noisy, key: str) -> None:
    with pytest.raises(ModelError, match=f"{key} is 0"):
        run(trained, noisy, **{key: 0})
    with pytest.raises(RecipeError, match=f"evaluation.{key}"):
        parse_recipe({"name": "x", "evaluation": {key: 0}})


def test_a_whole_run_of_a_noisy_ensemble(tmp_path: Path) -> None:
    recipe = parse_recipe(
        {
            "name": "noisy",
            "device": "cpu",
            "data": {"train_limit": 40, "validation": 10, "test_limit": 10},
            "model": {"name": "en2-resnet20", "options": {"depth": 10}},
            "threat": {"eps": 0.1},
            "objective": {"name": "pgd-at", "steps": 1},
            "phases": {"pretrain": {"epochs": 1, "batch_size": 15}},
            "evaluation": {"pgd_steps": 1, "pgd_restarts": 1, "autoattack": False, "eot": 3, "draws": 2},
        }
    )
    first, second = (run_one(recipe, tmp_path / name).evaluation for name in ("one", "two"))
    assert first is not None
    assert second is not None
    assert "EOT 3" in first.measures["pgd"].how
    assert "mean logits of 2 draws, seed 0" in first.measures["worst_case"].how
    assert first.verdicts == second.verdicts
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]
