"""Attacks on networks that answer differently each time: averages against explicit draws, limits, seeds."""

from __future__ import annotations

import copy
from typing import Any

import pyautoattack
import pytest
import torch
from attack_table import global_random_state, images, network, predictions, snapshot
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.attacks import ascend, autoattack, crafting, fgsm, pgd
from hedgerow.attacks.autoattack import describe
from hedgerow.errors import ModelError
from hedgerow.models.en_resnet import BlockNoise
from hedgerow.seeds import derive
from hedgerow.stochastic import Averaged, answers_vary, averaged, drawing, is_stochastic, shares_noise
from hedgerow.threat import ThreatModel

THREAT = ThreatModel("linf", "8/255")


def noisy(scale: float = 0.5, classes: int = 3) -> nn.Module:
    """The small network of the table with noise between its layers."""
    first, norm, tanh, flat, last = network(classes)
    return nn.Sequential(first, norm, BlockNoise(scale), tanh, BlockNoise(scale), flat, last).eval()


class Unsaid(nn.Module):
    """Drops features in every mode, and does not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(F.dropout(x, 0.3, training=True))


def explicit(model: nn.Module, x: Tensor, seed: int, draws: int) -> list[Tensor]:
    """The logits of `draws` forwards whose noise is drawn here, one image's at a time, from one generator."""
    dice = torch.Generator().manual_seed(seed)
    answers = []
    for _ in range(draws):
        out = x
        for layer in model:
            if isinstance(layer, BlockNoise):
                noise = torch.randn(1, *out.shape[1:], generator=dice, dtype=out.dtype)
                spread = out.flatten(1).std(1).view(-1, *[1] * (out.dim() - 1))
                out = out + layer.scale * spread * noise
            else:
                out = layer(out)
        answers.append(out)
    return answers


def _pgd(model: nn.Module, x: Tensor, y: Tensor, *, threat: ThreatModel) -> Tensor:
    return pgd(model, x, y, threat=threat, steps=5, restarts=2)


def _rand(model: nn.Module, x: Tensor, y: Tensor, *, threat: ThreatModel) -> Tensor:
    return autoattack(model, x, y, threat=threat, num_classes=3)


def loss_of(y: Tensor) -> Any:
    return lambda logits: F.cross_entropy(logits, y, reduction="sum")


def test_who_is_stochastic() -> None:
    assert is_stochastic(noisy())
    assert is_stochastic(nn.Sequential(nn.Flatten(), nn.Sequential(noisy())))
    for model in (network(), noisy(0.0), Unsaid()):
        assert not is_stochastic(model)
    model = network()
    model[0].stochastic = 0.5  # a rate of something else
    assert not is_stochastic(model)
    model[0].stochastic = True
    assert is_stochastic(model)
    assert not shares_noise(model), "it says so, but takes no noise from outside"
    assert shares_noise(noisy())
    assert not shares_noise(network())


def test_answers_that_vary_give_a_model_away_and_nothing_is_disturbed() -> None:
    x = images()
    before = global_random_state()
    assert answers_vary(Unsaid(), x)
    assert answers_vary(noisy(0.01), x)
    assert not answers_vary(network(), x)
    assert not answers_vary(noisy(0.0), x)
    assert global_random_state() == before


@pytest.mark.parametrize("make", [noisy, Unsaid])
def test_a_seed_decides_the_draws_and_everything_is_put_back(make: Any) -> None:
    model, x = make(), images()
    own = torch.Generator().manual_seed(5)
    layers = [layer for layer in model.modules() if isinstance(layer, BlockNoise)]
    for layer in layers:
        layer.generator = own
    before = global_random_state(), own.get_state().tolist()

    def draw(seed: int) -> tuple[Tensor, Tensor]:
        with drawing(model, seed), torch.no_grad():
            return model(x), model(x)

    first, again, other = draw(1), draw(1), draw(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])
    with pytest.raises(RuntimeError, match="stop"), drawing(model, 1):
        raise RuntimeError("stop")
    assert (global_random_state(), own.get_state().tolist()) == before
    assert all(layer.generator is own and layer.shared is False for layer in layers)
    with drawing(model, 3), torch.no_grad():
        twin = copy.deepcopy(model)
        assert torch.equal(twin(x), model(x)) == (make is noisy), "a copy has a generator of its own"


def test_the_judge_is_the_mean_of_explicit_draws() -> None:
    model, x = noisy().double(), images().double()
    judge = Averaged(model, draws=5, seed=3)
    expected = torch.stack(explicit(model, x, derive(3, "verdict"), 5)).mean(0)
    with torch.no_grad():
        torch.testing.assert_close(judge(x), expected, rtol=1e-12, atol=1e-12)
        assert not torch.allclose(Averaged(model, draws=5, seed=4)(x), expected, atol=1e-3)
        assert torch.equal(Averaged(model, eot=9, draws=5, seed=3).at("elsewhere")(x), judge(x))
    assert not torch.equal(judge(x.clone().requires_grad_()), judge(x.clone().requires_grad_())), "fresh draws"


@pytest.mark.parametrize("eot", [1, 4])
def test_the_eot_gradient_is_the_mean_over_explicit_draws(eot: int) -> None:
    model, x = noisy().double(), images().double()
    y = torch.arange(6) % 3
    leaf = x.clone().requires_grad_()
    answers = explicit(model, leaf, derive(7, "gradient", "here", 2), eot)
    gradients = [torch.autograd.grad(loss_of(y)(logits), leaf)[0] for logits in answers]
    found = Averaged(model, eot=eot, seed=7).at("here").gradient(loss_of(y), x, 2)
    torch.testing.assert_close(found, torch.stack(gradients).mean(0), rtol=1e-10, atol=1e-12)
    elsewhere = Averaged(model, eot=eot, seed=7).at("here").gradient(loss_of(y), x, 3)
    assert not torch.allclose(found, elsewhere)


def test_more_draws_come_nearer_to_the_expected_gradient() -> None:
    model, x, y = noisy().double(), images().double(), torch.arange(6) % 3
    expected = Averaged(model, eot=300, seed=99).gradient(loss_of(y), x)

    def error(eot: int, times: int) -> float:
        found = [Averaged(model, eot=eot, seed=s).gradient(loss_of(y), x) for s in range(times)]
        return (sum(((g - expected) ** 2).sum() for g in found) / times).item()

    assert error(16, 20) == pytest.approx(error(1, 80) / 16, rel=0.5), "the variance falls with the draws"


def test_ascend_follows_the_mean_gradient_of_each_step() -> None:
    model, x, y = noisy().double(), images().double(), torch.arange(6) % 3
    judge, point = Averaged(model, eot=3, draws=2, seed=1), x
    for step in range(4):
        gradient = judge.gradient(loss_of(y), point, step)
        point = THREAT.project(point + 0.01 * gradient.sign(), x)
    with crafting(judge) as inner:
        found = ascend(
            inner,
            x,
            threat=THREAT,
            start=x,
            loss=lambda logits, index: F.cross_entropy(logits, y[index], reduction="none"),
            steps=4,
            step_size=0.01,
        )
    torch.testing.assert_close(found, point, rtol=0, atol=1e-12)
    one_step = fgsm(judge, x, y, threat=THREAT)
    expected = THREAT.project(x + float(THREAT.eps) * judge.gradient(loss_of(y), x, 0).sign(), x)
    torch.testing.assert_close(one_step, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("attack", [fgsm, _pgd])
def test_without_noise_the_mean_changes_nothing(attack: Any) -> None:
    model, x = noisy(0.0).double(), images().double()
    y = predictions(model, x)
    assert averaged(model) is model
    plain = attack(model, x, y, threat=THREAT)
    assert torch.equal(attack(Averaged(model), x, y, threat=THREAT), plain)
    many = attack(Averaged(model, eot=3, draws=3), x, y, threat=THREAT)
    torch.testing.assert_close(many, plain, rtol=0, atol=1e-9)


def test_pgd_says_of_every_image_what_the_judge_says() -> None:
    judge, x = Averaged(noisy(), eot=2, draws=3, seed=2), images(30)
    y = predictions(judge, x)
    found = pgd(judge, x, y, threat=ThreatModel("linf", "1/20"), steps=5, restarts=2, batch_size=16)
    changed = (found != x).flatten(1).any(1)
    wrong = predictions(judge, found) != y
    assert 0 < wrong.sum() < 30
    assert changed.all(), "an image that stands comes back from its last restart"
    for size in (7, 30):
        again = pgd(judge, x, y, threat=ThreatModel("linf", "1/20"), steps=5, restarts=2, batch_size=size)
        torch.testing.assert_close(again, found, rtol=0, atol=1e-5)
        assert torch.equal(predictions(judge, again) != y, wrong)


def test_the_judge_answers_each_image_alike_in_any_batch() -> None:
    judge, x = Averaged(noisy(), draws=3), images(9)
    with torch.no_grad():
        whole = judge(x)
        torch.testing.assert_close(judge(x.flip(0)).flip(0), whole)
        torch.testing.assert_close(torch.cat([judge(one[None]) for one in x]), whole)


@pytest.mark.parametrize("attack", [fgsm, _pgd, _rand])
@pytest.mark.parametrize("make", [noisy, lambda: Averaged(noisy(), eot=2, draws=2)], ids=["bare", "averaged"])
def test_the_same_call_gives_the_same_images_and_disturbs_nothing(
    attack: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = pyautoattack.AutoAttack
    monkeypatch.setattr(pyautoattack, "AutoAttack", lambda *a, **k: shortened(quick(*a, **k)))
    model, x = make(), images()
    y = predictions(averaged(model), x)
    model.train()
    before = snapshot(model)
    first = attack(model, x, y, threat=ThreatModel("linf", "1/5"))
    assert snapshot(model) == before
    torch.rand(3)
    assert torch.equal(attack(model, x, y, threat=ThreatModel("linf", "1/5")), first)
    assert not torch.equal(first, x)


def shortened(attack: Any) -> Any:
    attack.apgd.n_iter = 8
    return attack


@pytest.mark.parametrize(
    ("classes", "eps", "attacks"), [(2, "1/4", ["apgd-ce"]), (3, "1/10", ["apgd-ce", "apgd-dlr"])]
)
def test_autoattack_is_the_rand_version_and_judges_by_the_mean(
    classes: int, eps: str, attacks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    original = pyautoattack.AutoAttack

    def spy(*given: Any, **options: Any) -> Any:
        made.append(shortened(original(*given, **options)))
        return made[-1]

    monkeypatch.setattr(pyautoattack, "AutoAttack", spy)
    judge, x = Averaged(noisy(classes=classes), draws=4), images(24)
    y = predictions(judge, x)
    found = autoattack(judge, x, y, threat=ThreatModel("linf", eps), num_classes=classes)
    assert (made[0].version, made[0].attacks_to_run, made[0].apgd.eot_iter) == ("rand", attacks, 20)
    wrong = predictions(judge, found) != y
    assert torch.equal((found != x).flatten(1).any(1), wrong), "unbroken images come back unchanged"
    assert 0 < wrong.sum() < 24
    autoattack(network(classes), x[:1], y[:1], threat=ThreatModel("linf", "1/2"), num_classes=classes)
    assert made[1].version == "standard"


def test_the_description_never_says_standard_of_a_stochastic_model() -> None:
    for classes in (2, 3, 10, 100):
        words = describe(classes, stochastic=True)
        assert "standard" not in words
        assert "EOT 20" in words
        assert words.startswith("AutoAttack rand") == (classes > 2)
    assert "not AutoAttack rand" in describe(2, stochastic=True)


@pytest.mark.parametrize("key", ["eot", "draws"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True])
def test_counts_of_draws_are_checked(key: str, value: Any) -> None:
    with pytest.raises(ModelError, match=f"{key} is {value!r}; it counts draws"):
        Averaged(noisy(), **{key: value})


@pytest.mark.gpu
def test_on_a_gpu_a_seed_decides_and_nothing_is_disturbed() -> None:
    model, x = noisy().cuda(), images().cuda()
    y = torch.arange(6, device="cuda") % 3
    for one in (Averaged(model, eot=2, draws=2), Averaged(Unsaid().cuda(), eot=2, draws=2)):
        state = torch.cuda.get_rng_state()
        first = pgd(one, x, y, threat=THREAT, steps=3, restarts=1)
        assert torch.equal(torch.cuda.get_rng_state(), state)
        torch.rand(3, device="cuda")
        assert torch.equal(pgd(one, x, y, threat=THREAT, steps=3, restarts=1), first)
