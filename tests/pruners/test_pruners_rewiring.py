"""DNR and Flying Bird through the training loop: they learn, resume exactly, and their recipes are sound."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from hedgerow.data import Split, load_dataset
from hedgerow.objectives import OBJECTIVES
from hedgerow.pruners import PRUNERS, Progress
from hedgerow.pruners.rewiring import Rewiring
from hedgerow.recipe import load_recipe, parse_recipe
from hedgerow.sparsity import Budget, Masks, count_nonzero, total_count
from hedgerow.threat import ThreatModel
from hedgerow.training import Plan, Setting, train

DOCS = Path(__file__).parents[2] / "docs" / "methods"
MAKE: dict[str, Callable[[], Any]] = {
    "dnr": lambda: PRUNERS["dnr"](rho=0.1),  # type: ignore[call-arg]
    "dnr without rho": lambda: PRUNERS["dnr"](rho=0.0),  # type: ignore[call-arg]
    "flying-bird": PRUNERS["flying-bird"],
}
every_method = pytest.mark.parametrize("method", MAKE)


class Stop(Exception):  # noqa: N818 - it stands for a power cut
    """The interruption."""


class Cut:
    """Stops training after one step of one epoch; None never."""

    def __init__(self, at: tuple[int, int] | None) -> None:
        self.at = at

    def start(self, *_: Any) -> None: ...

    def step(self, progress: Progress, images: int, loss: Tensor) -> None:
        if (progress.epoch, progress.step) == self.at:
            raise Stop

    def epoch(self, metrics: Any) -> None: ...


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def go(
    split: Split, method: str, *, cut: tuple[int, int] | None = None, **options: Any
) -> tuple[nn.Module, Masks]:
    model = network()
    if options.pop("channels_last", False):
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plan = Plan(epochs=options.pop("epochs", 4), lr=0.05, batch_size=64, select=options.pop("select", "last"))
    setting = Setting(accelerator="cpu", listeners=(Cut(cut),), **options)
    objective = OBJECTIVES["hybrid"](ThreatModel("linf", 0.1), steps=2, step_size=0.07)
    budget = Budget(0.9, "erk")
    out = train(model, split, objective, plan=plan, pruner=MAKE[method](), budget=budget, setting=setting)
    return model, out.masks


@pytest.fixture(scope="module")
def images() -> Split:
    return load_dataset("digits").train


@every_method
def test_it_learns_digits_at_nine_tenths(images: Split, method: str) -> None:
    model, masks = go(images, method, epochs=8)
    budget = sum(Budget(0.9, "erk").keep({n: w for n, w in network().named_parameters() if w.dim() > 1}).values())
    assert sum(int(mask.sum()) for mask in masks.values()) == budget
    assert total_count(count_nonzero(model)).kept <= budget
    test = load_dataset("digits").test
    model.eval()
    with torch.no_grad():
        right = (model(test.pixels()).argmax(1) == test.labels).float().mean().item()
    assert right > 0.8


@every_method
@pytest.mark.parametrize("cut", [(1, 1), (2, 0), (2, 1)])
def test_it_resumes_bit_for_bit_from_the_middle_of_an_epoch(
    images: Split, tmp_path: Path, method: str, cut: tuple[int, int]
) -> None:
    """Also from between the last step of an epoch and its rewiring, and from right after one."""
    few = images.take(200, 0)
    whole, masks = go(few, method)
    with pytest.raises(Stop):
        go(few, method, folder=tmp_path, save_every=0.0, cut=cut)
    resumed, again = go(few, method, folder=tmp_path)
    state = resumed.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in whole.state_dict().items())
    assert all(torch.equal(mask, again[name]) for name, mask in masks.items())


@every_method
def test_the_best_epoch_is_kept_as_it_was_validated(images: Split, method: str) -> None:
    """The best epoch's own masks come back with its weights, none of them at the 0 it was regrown at."""
    seen: list[tuple[float, int]] = []

    def validate(model: nn.Module) -> dict[str, float]:
        seen.append((1.0 / (1 + abs(len(seen) - 1)), total_count(count_nonzero(model)).kept))
        return {"clean": 0.0, "robust": seen[-1][0]}

    model, masks = go(images, method, select="best", validate=validate)
    assert [score for score, _ in seen] == [0.5, 1.0, 0.5, 1 / 3]
    kept = total_count(count_nonzero(model)).kept
    assert kept == seen[1][1]
    assert kept > 0.97 * sum(int(mask.sum()) for mask in masks.values())  # some places never see a pixel


def test_channels_last_changes_no_mask(images: Split) -> None:
    few = images.take(200, 0)
    one, other = (go(few, "dnr", channels_last=flag)[1] for flag in (False, True))
    assert {n: int(m.sum()) for n, m in one.items()}.keys() == other.keys()
    assert sum(int(m.sum()) for m in one.values()) == sum(int(m.sum()) for m in other.values())


def test_state_loads_with_weights_only(tmp_path: Path) -> None:
    model, pruner = network(), MAKE["dnr"]()
    assert isinstance(pruner, Rewiring)
    pruner.attach(model, Budget(0.5))
    torch.save({"model": model.state_dict(), "pruner": pruner.state_dict()}, tmp_path / "s.pt")
    state = torch.load(tmp_path / "s.pt", weights_only=True)
    assert {key.rpartition(".")[2] for key in state["model"] if "parametrizations" in key} == {
        "original",
        "mask",
        "v",
        "z",
        "u",
    }


def test_the_shipped_recipe_is_one_sparse_run_from_scratch() -> None:
    recipe = load_recipe("digits-dnr")
    phases = recipe.phases
    assert (phases.pretrain.epochs, phases.finetune.epochs) == (0, 0)
    assert phases.prune.epochs > 0
    assert recipe.pruning is not None
    assert recipe.pruning.method == "dnr"
    assert recipe.objective.name == "hybrid"


@pytest.mark.parametrize("page", ["dnr", "flying-bird"])
def test_the_recipes_in_the_documentation_are_sound(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    recipes = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert recipes
    for recipe in recipes:
        parsed = parse_recipe(yaml.safe_load(recipe))
        assert parsed.pruning is not None
        assert parsed.pruning.method == page


def test_a_rescaled_start_keeps_the_variance_of_every_unit() -> None:
    for method in ("dnr", "flying-bird"):
        dense, model = nn.Sequential(nn.Linear(400, 300)), nn.Sequential(nn.Linear(400, 300))
        model.load_state_dict(dense.state_dict())
        pruner = PRUNERS[method](rescale=True)  # type: ignore[call-arg]
        pruner.attach(model, Budget(0.9))
        kept = model[0].weight != 0
        ratio = model[0].weight[kept] / dense[0].weight[kept]
        assert torch.allclose(ratio, torch.full_like(ratio, 10**0.5))
        before, after = dense[0].weight.square().sum(1).mean(), model[0].weight.square().sum(1).mean()
        assert after.item() == pytest.approx(before.item(), rel=0.05)
