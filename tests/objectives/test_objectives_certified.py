"""IBP and CROWN-IBP training: schedules, the loss against slow intervals, limits, what the worst case means."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import pytest
import torch
from objective_table import batch, gradients, network, robust_at, same
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.attacks import pgd
from hedgerow.bounds import traces
from hedgerow.errors import ModelError, RecipeError
from hedgerow.models.en_resnet import BlockNoise
from hedgerow.objectives import IBP, CrownIBP, MixTrain, Natural, PGDAdversarialTraining, tell_progress
from hedgerow.objectives.certified import Ramp
from hedgerow.recipe import parse_recipe
from hedgerow.threat import ThreatModel

THREAT = ThreatModel("linf", "1/50")
FUSED = partial(CrownIBP, fusion=True)
CERTIFIED = {"ibp": IBP, "crown-ibp": CrownIBP, "fused": FUSED}
both = pytest.mark.parametrize("kind", CERTIFIED.values(), ids=CERTIFIED)


@pytest.mark.parametrize("shape", ["smooth", "linear"])
def test_a_ramp_rises_from_0_to_1_between_its_ends(shape: Any) -> None:
    ramp = Ramp(0.1, 0.5, shape)
    heights = [ramp(step / 1000) for step in range(1001)]
    assert heights[0] == heights[100] == 0
    assert heights[600] == heights[1000] == 1
    assert all(a < b for a, b in itertools.pairwise(heights[100:601]))
    rises = [b - a for a, b in itertools.pairwise(heights[100:601])]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(rises)), "it never slows down, and has no kink"
    assert max(rises) < (0.0021 if shape == "linear" else 0.0025)
    assert (rises[0] < 1e-6) == (shape == "smooth")
    assert Ramp(0, 0)(0) == 1
    assert Ramp(0.2, 0)(0.1) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup": -0.1}, "warmup is -0.1; it is a share"),
        ({"ramp": 1.5}, "ramp is 1.5"),
        ({"ramp": math.nan}, "ramp is nan"),
        ({"warmup": 0.6, "ramp": 0.6}, "sum to more than all of it"),
        ({"ramp_shape": "steep"}, "ramp_shape 'steep' is not known; allowed: smooth, linear"),
        ({"kappa": 1.1}, "kappa is 1.1; it is a weight and must be in \\[0, 1\\]"),
        ({"statistics": "both"}, "statistics 'both' are not known; allowed: batch, running"),
    ],
)
@both
def test_settings_out_of_range_are_refused(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(THREAT, **options)


def test_beta_is_a_weight() -> None:
    with pytest.raises(ValueError, match="beta is -1"):
        CrownIBP(THREAT, beta=-1)


def slow_intervals(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """The worst logits by interval arithmetic through unfolded matrices, batch norm by the clean batch."""
    conv, norm, _, _, fc = model
    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    clean = conv(x)
    mean, var = clean.mean((0, 2, 3), keepdim=True), clean.var((0, 2, 3), correction=0, keepdim=True)
    scale = norm.weight.view(1, -1, 1, 1) / (var + norm.eps).sqrt()
    columns = [F.unfold(side, 3, stride=2) for side in (low, high)]
    weight = conv.weight.flatten(1)
    up, down = weight.clamp(min=0), weight.clamp(max=0)
    ends = [up @ columns[0] + down @ columns[1], up @ columns[1] + down @ columns[0]]
    ends = [(end + conv.bias.view(1, -1, 1)).view_as(clean) for end in ends]
    ends = [(end - mean) * scale + norm.bias.view(1, -1, 1, 1) for end in ends]
    low, high = torch.minimum(*ends).tanh().flatten(1), torch.maximum(*ends).tanh().flatten(1)
    worst = torch.zeros(len(x), 3, dtype=x.dtype)
    for n, j in itertools.product(range(len(x)), range(3)):
        row, shift = fc.weight[j] - fc.weight[y[n]], fc.bias[j] - fc.bias[y[n]]
        worst[n, j] = (row.clamp(min=0) * high[n] + row.clamp(max=0) * low[n]).sum() + shift
    return worst


@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0])
def test_ibp_is_the_cross_entropy_of_slow_intervals(kappa: float) -> None:
    model, slow = network().double(), network().double()
    x, y = batch()
    x = x.double()
    loss, scalars = IBP(THREAT, kappa=kappa)(model, x, y)
    worst = slow_intervals(slow, x, y, 0.02)
    logits = slow(x)
    expected = (1 - kappa) * F.cross_entropy(worst, y) + kappa * F.cross_entropy(logits, y)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert same(gradients(model, loss), gradients(slow, expected), atol=1e-10)
    assert scalars["robust"].item() == pytest.approx(F.cross_entropy(worst, y).item())
    assert scalars["natural"].item() == pytest.approx(F.cross_entropy(logits, y).item())
    assert scalars["verified_accuracy"] == (worst.argmax(1) == y).float().mean()
    assert scalars["eps"].item() == pytest.approx(0.02)
    assert torch.allclose(model[1].running_mean, slow[1].running_mean)
    assert model[1].num_batches_tracked == 1


@both
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_attack_has_a_larger_loss_than_the_worst_case(kind: Any, norm: Any) -> None:
    model = network().eval()
    x, y = batch()
    threat = ThreatModel(norm, "1/20")
    _, scalars = kind(threat, statistics="running")(model, x, y)
    attacked = pgd(model, x, y, threat=threat, steps=20, restarts=2, seed=0)
    with torch.no_grad():
        logits = model(attacked)
        assert F.cross_entropy(logits, y) <= scalars["robust"] + 1e-6
        assert (logits.argmax(1) == y).float().mean() >= scalars["verified_accuracy"]
        assert scalars["robust"] > F.cross_entropy(model(x), y)


def test_crown_ibp_goes_from_linear_bounds_to_intervals() -> None:
    """b = 1 - (1 - beta) * height; the bound blended is the margin, not the loss."""
    half = {"warmup": 0.0, "ramp": 1.0, "ramp_shape": "linear"}
    assert robust_at(CrownIBP(THREAT), 1.0) == pytest.approx(robust_at(IBP(THREAT), 1.0), rel=1e-6)
    assert robust_at(CrownIBP(THREAT, beta=1.0), 1.0) < robust_at(IBP(THREAT), 1.0) - 1e-3
    linear, mixed = (robust_at(CrownIBP(THREAT, beta=b, **half), 0.5) for b in (1.0, 0.0))
    intervals = robust_at(IBP(THREAT, **half), 0.5)
    assert linear < mixed < intervals
    again = CrownIBP(THREAT, beta=0.5)
    assert robust_at(again, 1.0) == pytest.approx(robust_at(CrownIBP(THREAT, beta=0.5, ramp=0, warmup=0), 0.0))


@both
def test_the_schedule_moves_eps_and_the_weight_of_the_clean_loss(kind: Any) -> None:
    objective = kind(THREAT, warmup=0.2, ramp=0.5, ramp_shape="linear", kappa=0.25)
    x, y = batch()
    for done, height in ((0.0, 0.0), (0.2, 0.0), (0.45, 0.5), (0.7, 1.0), (0.99, 1.0)):
        tell_progress(objective, done)
        loss, scalars = objective(network(), x, y)
        assert scalars["eps"].item() == pytest.approx(0.02 * height)
        weight = 1 - 0.75 * height
        expected = (1 - weight) * scalars["robust"] + weight * scalars["natural"]
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@both
def test_in_the_warm_up_it_is_natural_training_bit_for_bit(kind: Any) -> None:
    objective = kind(THREAT, warmup=0.5, ramp=0.5)
    objective.progress(0.3)
    model, other = network(), network()
    loss, scalars = objective(model, *batch())
    expected, _ = Natural()(other, *batch())
    assert torch.equal(loss, expected)
    assert scalars["verified_accuracy"] == scalars["train_accuracy"]
    assert set(scalars) == set(IBP(THREAT)(network(), *batch())[1])


@both
def test_without_a_loop_that_tells_the_schedule_is_at_its_end(kind: Any) -> None:
    assert kind(THREAT)(network(), *batch())[1]["eps"].item() == pytest.approx(0.02)
    tell_progress(PGDAdversarialTraining(THREAT), 0.5)  # one without a schedule is left alone


@both
def test_a_small_eps_is_close_to_the_clean_loss_of_the_training_forward(kind: Any) -> None:
    """Only with the statistics of the batch: the running ones are of another network than the one trained."""
    model = network()
    loss, scalars = kind(ThreatModel("linf", "1/1000000"), kappa=0.0)(model, *batch())
    assert loss.item() == pytest.approx(scalars["natural"].item(), abs=1e-3)
    running, _ = kind(ThreatModel("linf", "1/1000000"), kappa=0.0, statistics="running")(network(), *batch())
    assert running.item() != pytest.approx(scalars["natural"].item(), abs=1e-3)


@both
def test_statistics_of_the_running_kind_are_those_after_the_clean_forward(kind: Any) -> None:
    model, other = network(), network()
    _, scalars = kind(THREAT, statistics="running")(model, *batch())
    other(batch()[0])
    _, expected = kind(THREAT)(other.eval(), *batch())
    assert scalars["robust"].item() == pytest.approx(expected["robust"].item(), rel=1e-5)


@both
def test_a_network_is_traced_once_and_another_one_anew(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    traced, trace = [], traces.trace
    monkeypatch.setattr(traces, "trace", lambda model, x: traced.append(model) or trace(model, x))
    objective, model, other = kind(THREAT), network(), network(1)
    for net in (model, model, other, model):
        objective(net, *batch())
    assert traced == [model, other]


@pytest.mark.parametrize("kind", [IBP, CrownIBP, FUSED, MixTrain])
def test_networks_without_bounds_are_refused(kind: Any) -> None:
    x, y = torch.rand(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64)
    options = {"chance": 1.0} if kind is MixTrain else {}
    with pytest.raises(ModelError, match=r"is stochastic.*or set its noise to 0"):
        kind(THREAT, **options)(nn.Sequential(BlockNoise(), nn.Flatten(), nn.Linear(16, 3)), x, y)
    with pytest.raises(ModelError, match="gelu in '0': no bounds are known for it"):
        kind(THREAT, **options)(nn.Sequential(nn.GELU(), nn.Flatten(), nn.Linear(16, 3)), x, y)


def test_recipes_may_name_them_and_hear_what_is_wrong() -> None:
    for name in ("ibp", "crown-ibp"):
        good = {"name": "tiny", "objective": {"name": name, "ramp": 0.0, "warmup": 0.0, "kappa": 0.5}}
        assert parse_recipe(good).objective.name == name
        with pytest.raises(RecipeError, match=r"objective \(ramp: 2\): ramp is 2"):
            parse_recipe({"name": "tiny", "objective": {"name": name, "ramp": 2}})
