"""How many weights DNR moves, and which: hand-worked cases, and slow loops over many."""

from __future__ import annotations

import random

import pytest
import torch
from rewiring_cases import slow_drop, slow_grow, slow_growth, slow_removal

from hedgerow.pruners.dnr import growth_counts, layer_shares, removal_counts
from hedgerow.pruners.rewiring import cosine_share, drop_smallest, grow_largest, random_mask


def test_shares_are_mean_momenta_over_live_weights() -> None:
    v = {"a": torch.tensor([1.0, -3.0, 100.0]), "b": torch.tensor([[2.0, 50.0], [-4.0, 6.0]])}
    masks = {"a": torch.tensor([True, True, False]), "b": torch.tensor([[True, False], [True, True]])}
    assert layer_shares(v, masks) == pytest.approx({"a": 2 / 6, "b": 4 / 6})
    still = {name: torch.zeros_like(value) for name, value in v.items()}
    assert layer_shares(still, masks) == {"a": 0.5, "b": 0.5}


def test_removal_takes_the_ceiling_and_spares_full_layers_that_ask_for_more() -> None:
    live, sizes = {"a": 90, "b": 90, "c": 11, "d": 1}, {"a": 100, "b": 100, "c": 100, "d": 50}
    mu = {"a": 0.5, "b": 0.2, "c": 0.2, "d": 0.1}
    assert removal_counts(live, sizes, mu, 0.5) == {"a": 9, "b": 45, "c": 6, "d": 0}
    assert removal_counts({"a": 80}, {"a": 100}, {"a": 2.0}, 0.5) == {"a": 40}  # 20 % zeros are enough
    assert removal_counts({"a": 100}, {"a": 1000}, {"a": 1.0}, 0.07) == {"a": 7}  # 7.000000000000001 in floats


def test_growth_by_hand() -> None:
    free = {"a": 1000, "b": 1000, "c": 1000}
    assert growth_counts(10, free, {"a": 0.5, "b": 0.3, "c": 0.2}) == {"a": 5, "b": 3, "c": 2}
    # 3.4 + 3.3 + 3.3: the ceilings are 4 + 4 + 4, and what they give too much is taken from b and c
    assert growth_counts(10, free, {"a": 0.34, "b": 0.33, "c": 0.33}) == {"a": 4, "b": 3, "c": 3}
    # a takes 99 of its 100 free places; the other 101 go 2 : 1
    assert growth_counts(200, {**free, "a": 100}, {"a": 0.7, "b": 0.2, "c": 0.1}) == {"a": 99, "b": 67, "c": 34}
    # overflow that fills the next layer too
    crowded = {"a": 100, "b": 200, "c": 1000}
    assert growth_counts(500, crowded, {"a": 0.5, "b": 0.4, "c": 0.1}) == {"a": 99, "b": 198, "c": 203}
    # 99 % of all places is not enough: the places themselves are the limit
    assert growth_counts(20, {"a": 10, "b": 10}, {"a": 0.9, "b": 0.1}) == {"a": 10, "b": 10}
    assert growth_counts(0, {"a": 0, "b": 4}, {"a": 0.5, "b": 0.5}) == {"a": 0, "b": 0}
    assert growth_counts(4, {"a": 100, "b": 100, "c": 2}, {"a": 0.0, "b": 0.0, "c": 1.0}) == {
        "a": 1,
        "b": 2,
        "c": 1,
    }  # c has one place to give and no one else was asked for: half of the rest each, 1.5 rounded up, one back


def test_counts_against_slow_loops_over_random_layers() -> None:
    rng = random.Random(0)
    for _ in range(300):
        names = [f"l{i}" for i in range(rng.randint(1, 8))]
        sizes = {name: rng.choice([1, 2, 7, 30, 400, 5000]) for name in names}
        live = {name: rng.randint(1, size) for name, size in sizes.items()}
        raw = {name: rng.choice([0.0, 1e-6, 1.0, 30.0]) * rng.random() for name in names}
        total = sum(raw.values())
        mu = {name: value / total if total else 1 / len(names) for name, value in raw.items()}
        p = rng.choice([0.5, 0.3, 0.005, rng.random()])
        removed = removal_counts(live, sizes, mu, p)
        assert removed == slow_removal(live, sizes, mu, p)
        free = {name: sizes[name] - live[name] + removed[name] for name in names}
        grown = growth_counts(sum(removed.values()), free, mu)
        assert grown == slow_growth(sum(removed.values()), free, mu)
        assert sum(grown.values()) == sum(removed.values())
        assert all(0 <= grown[name] <= free[name] for name in names)


@pytest.mark.parametrize("seed", range(20))
def test_places_against_slow_loops_with_ties(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-3, 4, (3, 2, 3), generator=generator).float()
    score = torch.randint(-3, 4, (3, 2, 3), generator=generator).float()
    mask = random_mask(weight, 11, seed)
    assert int(mask.sum()) == 11
    for count in (0, 1, 5, 10):
        survivors = drop_smallest(weight, mask, count)
        assert torch.equal(survivors, slow_drop(weight, mask, count))
        assert torch.equal(grow_largest(score, survivors, count), slow_grow(score, survivors, count))
    full = torch.ones_like(mask)
    assert torch.equal(grow_largest(score, full, 0), full)
    assert torch.equal(drop_smallest(weight, full, 0), full)


def test_random_masks_are_random_exact_and_seeded() -> None:
    weight = torch.empty(40, 50)
    masks = [random_mask(weight, 200, seed) for seed in (1, 1, 2)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert [int(mask.sum()) for mask in masks] == [200] * 3
    assert (masks[0].sum(1) > 0).sum() > 30


def test_the_share_to_move_falls_by_cosine() -> None:
    assert cosine_share(0.5, 0.005, 0.0) == 0.5
    assert cosine_share(0.5, 0.005, 0.5) == pytest.approx(0.2525)
    assert cosine_share(0.5, 0.005, 1.0) == pytest.approx(0.005)
