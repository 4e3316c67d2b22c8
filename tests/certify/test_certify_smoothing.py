"""Certificates on classifiers whose smoothed form is known: never too large, and nearly as large as can be."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from certify_cases import SHAPE, SMALL, HalfSpace, Slab, images, near
from torch import Tensor, nn

from hedgerow.certify import CERTIFIERS, Smoothing, certify, gather
from hedgerow.certify.smoothing import BLOCK, gaussian

CPU = torch.device("cpu")


def test_of_a_half_space_the_radius_is_never_above_the_distance_and_comes_close_with_n() -> None:
    model = HalfSpace()
    distances = [-0.7, -0.5, -0.3, -0.1, -0.02, 0.02, 0.1, 0.3, 0.5, 0.7]
    x = near(model, distances)
    gaps = []
    for n in (100, 1000, 10_000, 100_000):
        proofs = certify(model, x, Smoothing(sigma=0.25, n=n, seed=3), batch_size=10_000)
        for distance, proof in zip(distances, proofs, strict=True):
            assert proof.prediction in (None, int(distance > 0))
            assert 0 <= proof.radius <= abs(distance)
        gaps.append(sum(abs(d) - p.radius for d, p in zip(distances, proofs, strict=True)) / len(distances))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.1
    assert gaps[-1] < 0.02


def test_an_attack_within_the_radius_cannot_change_the_half_spaces_smoothed_class() -> None:
    model, x = HalfSpace(seed=4), images(60)
    proofs = certify(model, x, Smoothing(sigma=0.5, n=1000), batch_size=5000)
    certified = [(i, p) for i, p in enumerate(proofs) if p.prediction is not None]
    assert len(certified) > 30
    for i, proof in certified:
        sign = -1 if proof.prediction == 1 else 1
        attacked = x[i : i + 1] + sign * proof.radius * model.towards()
        # Noise has no preferred side, so the smoothed classifier of a half-space is the half-space itself.
        assert (model.distance(attacked).item() > 0) == (proof.prediction == 1)


def test_of_a_slab_no_image_within_the_radius_has_another_smoothed_class() -> None:
    model, sigma = Slab(0.15), 0.5
    means = torch.linspace(0.25, 0.75, 26)
    x = means.view(-1, 1, 1, 1).expand(-1, *SHAPE)
    proofs = certify(model, x, Smoothing(sigma=sigma, n=5000, seed=1), batch_size=5000)
    found = {p.prediction for p in proofs}
    assert found >= {0, 1}
    for mean, proof in zip(means, proofs, strict=True):
        if proof.prediction is not None:
            reach = torch.linspace(-proof.radius, proof.radius, 101) / 4  # l2 along the mean of 16 pixels
            p = model.probability(mean + reach, sigma)
            assert bool(((p > 0.5) == (proof.prediction == 1)).all())


def test_votes_follow_the_probability_of_each_class() -> None:
    model, x = HalfSpace(), near(HalfSpace(), [0.2])
    n = 20_000
    (evidence,) = gather(model, x, Smoothing(sigma=0.25, n=n), batch_size=5000).values()
    p = 0.5 * (1 + math.erf(0.2 / 0.25 / math.sqrt(2)))
    votes = evidence["estimation"]
    assert sum(votes.values()) == n
    assert votes["1"] / n == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / n))
    assert sum(evidence["selection"].values()) == 100


def test_it_abstains_where_the_votes_are_even_and_says_the_plain_answer() -> None:
    model = HalfSpace()
    (proof,) = certify(model, near(model, [1e-4]), SMALL)
    assert (proof.prediction, proof.radius) == (None, 0.0)
    assert proof.answer in (0, 1)


def test_conclusions_from_votes_made_by_hand() -> None:
    certain = SMALL.conclude({"selection": {"2": 20}, "estimation": {"2": 200}})
    assert (certain.prediction, certain.answer) == (2, 2)
    assert certain.radius == pytest.approx(SMALL.radii()[-1], abs=SMALL.sigma / 10)
    misled = SMALL.conclude({"selection": {"0": 9, "7": 11}, "estimation": {"0": 200}})
    assert (misled.prediction, misled.radius, misled.answer) == (None, 0.0, 0)
    tie = SMALL.conclude({"selection": {"1": 10, "3": 10}, "estimation": {"1": 190, "3": 10}})
    assert tie.prediction == 1


def test_no_certified_class_differs_from_the_plain_answer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 30), nn.ReLU(), nn.Linear(30, 5))
    proofs = certify(model, images(150), dataclasses.replace(SMALL, sigma=0.5), batch_size=2000)
    assert {p.prediction is None for p in proofs} == {True, False}
    assert all(p.prediction in (None, p.answer) for p in proofs)


def test_the_radii_for_a_table_end_at_what_all_votes_prove() -> None:
    radii = Smoothing(sigma=0.25).radii()
    assert radii[0] == 0
    assert radii[-1] == pytest.approx(0.775)
    assert 0.25 in radii
    assert radii[-1] <= 0.7996 < radii[-1] + 0.025


@pytest.mark.parametrize("cuts", [[0, 130], [0, 1, 50, 51, 130], [0, 49, 99, 100, 130]])
def test_noise_is_the_same_however_it_is_cut(cuts: list[int]) -> None:
    whole = gaussian(3, 17, 0, 130, shape=(1, 2, 3), device=CPU)
    parts = [gaussian(3, 17, a, b, shape=(1, 2, 3), device=CPU) for a, b in itertools.pairwise(cuts)]
    assert torch.equal(torch.cat(parts), whole)
    assert BLOCK == 50, "another block is other noise under the same seed"


def test_noise_is_standard_normal_and_differs_by_seed_image_and_draw() -> None:
    noise = gaussian(3, 17, 0, 4000, shape=(5,), device=CPU)
    assert noise.mean().item() == pytest.approx(0, abs=0.03)
    assert noise.std().item() == pytest.approx(1, abs=0.03)
    assert len(noise.unique()) > 0.99 * noise.numel()
    for other in (gaussian(4, 17, 0, 50, shape=(5,), device=CPU), gaussian(3, 18, 0, 50, shape=(5,), device=CPU)):
        assert not (other == noise[:50]).any()


@pytest.mark.parametrize("batch_size", [1, 7, 64, 220, 441, 5000])
def test_neither_batch_size_nor_company_nor_order_changes_the_votes(batch_size: int) -> None:
    model, x = HalfSpace(), images(6)
    known = gather(model, x, SMALL, positions=range(10, 16), batch_size=500)
    alone = gather(model, x[4:5], SMALL, positions=[14], batch_size=batch_size)
    turned = gather(model, x.flip(0), SMALL, positions=range(15, 9, -1), batch_size=batch_size)
    assert alone[14] == known[14]
    assert {k: turned[k] for k in known} == known
    assert gather(model, x[4:5], SMALL, positions=[3])[3] != known[14], "the position is what decides the noise"


def test_no_forward_is_larger_than_the_batch_size_and_images_share_them() -> None:
    sizes: list[int] = []
    model = HalfSpace()
    model.register_forward_hook(lambda _, inputs, output: sizes.append(len(inputs[0])))
    certify(model, images(7), SMALL, batch_size=700)
    drawn = [s for s in sizes if s > 20]  # the others are checks of the network
    assert drawn == [660, 660, 220]
    sizes.clear()
    certify(model, images(2), SMALL, batch_size=100)
    assert [s for s in sizes if s > 8] == [100, 100, 20] * 2


def test_the_network_is_used_in_eval_mode_and_left_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    with torch.no_grad():
        model(images(40))
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = gather(model, images(5), SMALL)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert found == gather(model.eval(), images(5), SMALL)


def test_global_random_numbers_neither_matter_nor_change() -> None:
    state = torch.get_rng_state()
    one = gather(HalfSpace(), images(3), SMALL)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert gather(HalfSpace(), images(3), SMALL) == one


class Noisy(HalfSpace):
    """A half-space that adds noise to its value, of its own for each image."""

    stochastic = True

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.spread, self.generator, self.shared = spread, None, False

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        rows = 1 if self.shared else len(x)
        noise = torch.randn(rows, generator=self.generator).expand(len(x))
        return logits + self.spread * noise[:, None] * torch.tensor([0.0, 1.0])


def test_a_stochastic_network_that_says_so_is_certified_with_its_own_noise() -> None:
    model, n = Noisy(0.8), 4000
    x, settings = near(model, [0.1, 0.3, -0.2]), Smoothing(sigma=0.25, n=n, seed=2)
    found = gather(model, x, settings, batch_size=1000)
    # w x + b + 0.8 N(0, 1) under noise is Gaussian: its spread is that of both.
    length = model.w.detach().norm().item()
    spread = math.hypot(0.25 * length, 0.8)
    for distance, evidence in zip([0.1, 0.3, -0.2], found.values(), strict=True):
        p = 0.5 * (1 + math.erf(distance * length / spread / math.sqrt(2)))
        assert evidence["estimation"]["1"] / n == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / n))
    assert (model.generator, model.shared) == (None, False)
    assert gather(model, x, settings, batch_size=1000) == found
    assert gather(model, x[1:2], settings, positions=[1], batch_size=1000)[1] == found[1]


def test_it_is_registered_and_says_what_it_promises() -> None:
    assert CERTIFIERS["smoothing"] is Smoothing
    assert "1902.02918" in CERTIFIERS.summary("smoothing")
    words = Smoothing(sigma=0.5, n=1000, alpha=0.01).describe()
    assert "sigma 0.5, n0 100, n 1,000, alpha 0.01" in words
    assert "wrong with probability 0.01 at most" in words
