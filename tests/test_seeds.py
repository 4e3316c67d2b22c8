"""Seeds are a stable function of where we are."""

from __future__ import annotations

import itertools

import torch

from hedgerow.seeds import derive, generator


def test_derived_seeds_are_pinned() -> None:
    """Another value here means that no old run can be repeated or resumed."""
    assert derive(0) == 4_761_921_975_702_974_394
    assert derive(3, "model", "pretrain", 2, 17) == 1_864_907_814_926_056_027


def test_every_place_has_its_own_seed() -> None:
    seeds = [
        derive(seed, phase, epoch, step)
        for seed, phase, epoch, step in itertools.product(range(4), ("pretrain", "prune"), range(10), range(20))
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_numbers_do_not_run_together() -> None:
    assert derive(1, 23) != derive(12, 3)
    assert derive(0, 1, 23) != derive(0, 12, 3)
    assert derive(0, 1) != derive(0, 1, "")
    assert derive(0, "1") == derive(0, 1)  # places are named by their text


def test_generators_are_fresh_and_leave_the_global_one() -> None:
    before = torch.get_rng_state()
    one, other = (torch.rand(5, generator=generator(2, "here")) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, torch.rand(5, generator=generator(2, "there")))
    assert torch.equal(before, torch.get_rng_state())


def test_seeds_pass_unchanged_into_a_generator() -> None:
    assert generator(7, "x").initial_seed() == derive(7, "x")
