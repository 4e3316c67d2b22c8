"""Training under Gaussian noise against the equations, its limits, and with every pruner."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from objective_table import batch, dice, gradients, network, same
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.data import Split
from hedgerow.errors import RecipeError
from hedgerow.objectives import Natural
from hedgerow.objectives.smoothing import RandomizedSmoothing
from hedgerow.pruners import PRUNERS
from hedgerow.recipe import parse_recipe
from hedgerow.sparsity import Budget, count_nonzero, total_count
from hedgerow.training import Plan, Setting, train


def noise_by_hand(x: Tensor, seed: int, draws: int) -> list[Tensor]:
    """The noise that the objective is to draw from a generator of this seed, one batch per copy."""
    return list(torch.empty(draws, *x.shape, dtype=x.dtype).normal_(generator=dice(seed)))


def frozen_norm(model: nn.Module) -> nn.Module:
    """Copies may then go through the network one by one: no batch statistics join them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


@pytest.mark.parametrize("draws", [1, 3])
def test_gaussian_is_the_mean_cross_entropy_over_noisy_copies(draws: int) -> None:
    model, slow = frozen_norm(network().double()), frozen_norm(network().double())
    x, y = batch()
    x = x.double()
    loss, scalars = RandomizedSmoothing(form="gaussian", sigma=0.3, draws=draws)(model, x, y, dice(3))
    copies = [slow(x + 0.3 * noise) for noise in noise_by_hand(x, 3, draws)]
    expected = torch.stack([F.cross_entropy(logits, y) for logits in copies]).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert same(gradients(model, loss), gradients(slow, expected), atol=1e-12)
    right = torch.stack([(logits.argmax(1) == y).double().mean() for logits in copies]).mean()
    assert scalars["train_accuracy"].item() == pytest.approx(right.item())
    assert set(scalars) == {"train_accuracy"}


@pytest.mark.parametrize("draws", [1, 3])
def test_stability_is_the_equation_through_probabilities(draws: int) -> None:
    model, slow = frozen_norm(network().double()), frozen_norm(network().double())
    x, y = batch()
    x = x.double()
    loss, scalars = RandomizedSmoothing(sigma=0.3, beta=2.0, draws=draws)(model, x, y, dice(3))
    clean = slow(x)
    natural = F.cross_entropy(clean, y)
    terms = []
    for noise in noise_by_hand(x, 3, draws):
        p, q = clean.softmax(1), slow(x + 0.3 * noise).softmax(1)
        terms.append((p * (p.log() - q.log())).sum(1).mean())
    expected = natural + 2.0 * torch.stack(terms).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert same(gradients(model, loss), gradients(slow, expected), atol=1e-12)
    assert scalars["natural"].item() == pytest.approx(natural.item())
    assert scalars["natural"] + 2.0 * scalars["robust"] == pytest.approx(loss.item())
    assert scalars["train_accuracy"] == (clean.argmax(1) == y).float().mean()
    assert scalars["robust"] > 1e-4


def test_the_published_numbers_are_the_defaults() -> None:
    objective = RandomizedSmoothing()
    assert (objective.form, objective.sigma, objective.beta, objective.draws) == ("stability", 0.25, 6.0, 1)


def test_noise_is_not_cut_to_the_pixel_range_and_has_the_spread_asked_for() -> None:
    x = torch.rand(64, 1, 32, 32, generator=dice())
    noisy = RandomizedSmoothing(sigma=0.5).noisy(x, dice(1))
    assert noisy.min() < -0.5
    assert noisy.max() > 1.5
    moved = noisy - x
    assert moved.mean().item() == pytest.approx(0, abs=0.01)
    assert moved.std().item() == pytest.approx(0.5, rel=0.01)
    kurtosis = (moved / moved.std()).pow(4).mean().item()
    assert kurtosis == pytest.approx(3, abs=0.1), "a Gaussian, not a clipped one"


@pytest.mark.parametrize(
    "options",
    [{"form": "gaussian", "sigma": 0.0, "draws": 3}, {"sigma": 0.0}, {"beta": 0.0}],
    ids=["gaussian sigma 0", "stability sigma 0", "stability beta 0"],
)
def test_without_noise_or_weight_it_is_natural_training_bit_for_bit(options: dict[str, Any]) -> None:
    model, other, random = network(), network(), dice()
    before = random.get_state()
    loss, scalars = RandomizedSmoothing(**options)(model, *batch(), random)
    expected, known = Natural()(other, *batch(), dice())
    assert torch.equal(loss, expected)
    assert same(gradients(model, loss), gradients(other, expected))
    assert scalars["train_accuracy"] == known["train_accuracy"]
    assert "robust" not in scalars
    assert torch.equal(model[1].running_mean, other[1].running_mean)
    assert torch.equal(random.get_state(), before), "nothing is drawn"


def test_a_little_noise_changes_the_loss_a_little() -> None:
    natural = Natural()(network(), *batch(), dice())[0].item()
    for form in ("gaussian", "stability"):
        gaps = [
            abs(RandomizedSmoothing(form=form, sigma=s)(network(), *batch(), dice())[0].item() - natural)
            for s in (1e-4, 1e-2, 1.0)
        ]
        assert gaps[0] < 1e-3 < gaps[2]
        assert gaps[0] < gaps[1] < gaps[2]


@pytest.mark.parametrize(("form", "forwards"), [("gaussian", 1), ("stability", 2)])
def test_batch_norm_sees_all_copies_in_one_forward(form: Any, forwards: int) -> None:
    model = network()
    RandomizedSmoothing(form=form, draws=4)(model, *batch(), dice())
    assert model[1].num_batches_tracked == forwards


@pytest.mark.parametrize("form", ["gaussian", "stability"])
def test_other_noise_gives_another_loss_and_copies_differ(form: Any) -> None:
    objective = RandomizedSmoothing(form=form)
    losses = [objective(network(), *batch(), dice(seed))[0].item() for seed in (0, 1)]
    assert losses[0] != losses[1]
    one, other = RandomizedSmoothing(form=form, draws=2).noisy(batch()[0], dice()).chunk(2)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": -0.1}, "sigma is -0.1; it is the spread of the noise"),
        ({"sigma": math.nan}, "sigma is nan"),
        ({"sigma": math.inf}, "sigma is inf"),
        ({"beta": -1.0}, "beta is -1.0; it weighs"),
        ({"beta": math.nan}, "beta is nan"),
        ({"form": "gaussian", "beta": 6.0}, "form gaussian has no second term"),
        ({"form": "uniform"}, "allowed: stability, gaussian"),
        ({"draws": 0}, "draws is 0; it counts"),
        ({"draws": True}, "draws is True"),
        ({"draws": 1.5}, "draws is 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomizedSmoothing(**options)


def test_a_recipe_may_name_it_and_hears_what_is_wrong() -> None:
    good = {"name": "tiny", "objective": {"name": "smoothing", "form": "gaussian", "sigma": "5e-1"}}
    assert parse_recipe(good).objective.name == "smoothing"
    with pytest.raises(RecipeError, match=r"objective \(sigma: -1\): sigma is -1"):
        parse_recipe({"name": "tiny", "objective": {"name": "smoothing", "sigma": -1}})
    with pytest.raises(RecipeError, match=r"objective.steps: unknown key .* Allowed here: beta, draws, form"):
        parse_recipe({"name": "tiny", "objective": {"name": "smoothing", "steps": 3}})


@pytest.mark.parametrize("name", [n for n in PRUNERS if PRUNERS[n].images == 1])  # the network has no ReLU
def test_every_pruner_trains_with_it_and_prunes(name: str) -> None:
    model = network()
    offered = "granularity" in inspect.signature(PRUNERS[name]).parameters
    options = {"granularity": "weight"} if offered and "weight" in PRUNERS[name].granularities else {}
    pixels = (255 * batch(48)[0]).to(torch.uint8)
    out = train(
        model,
        Split(pixels, torch.arange(48) % 3),
        RandomizedSmoothing(sigma=0.25, draws=2),
        plan=Plan(epochs=2, lr=0.05, batch_size=24),
        pruner=PRUNERS[name](**options),
        budget=Budget(0.5),
        setting=Setting(accelerator="cpu"),
    )
    assert out.epochs == (2 if PRUNERS[name].learns else 0)
    sparse = total_count(count_nonzero(model)).sparsity
    assert (sparse > 0) is (name != "dense")
    assert all(value.isfinite().all() for value in model.state_dict().values())
