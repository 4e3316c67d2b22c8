"""Which kernel a layer gets: decided by its weights alone, or measured once and remembered."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from runtime_nets import MACHINE, network_of, taps

from hedgerow.runtime import Conv, choice

X = torch.rand(MACHINE.lanes + 1, 4, 6, 10, generator=torch.Generator().manual_seed(0))


def network(density, seed=0):
    dice = np.random.default_rng(seed)
    weight = dice.normal(size=(8, 4, 3, 3)) * (dice.random((8, 4, 3, 3)) < density)
    step = Conv("c", 0, 1, taps(weight), np.zeros(8, np.float32), (3, 3), padding=(1, 1))
    return network_of((step,), ((4, 6, 10), (8, 6, 10)))


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("HEDGEROW_CACHE", str(tmp_path))
    return tmp_path / "runtime-choices.json"


@pytest.fixture
def timed(monkeypatch):
    """Time nothing: a shared list is as slow as told. Returns the asked schedules, and what is told."""
    told, asked = {"shared": 1.0}, []

    def scheduled(network, machine, shared=frozenset()):
        asked.append(shared)
        return network, shared

    monkeypatch.setattr(choice, "batch_schedule", scheduled)
    monkeypatch.setattr(choice, "_times", lambda made: {0: told["shared"] if made[1] else 2.0, 1: 1.0})
    return told, asked


def shared(density, *, measured=True):
    return choice.scheduled(network(density), MACHINE, "batch", measured=measured)[1]


def test_what_is_clear_is_not_measured(timed, file):
    assert shared(1.0) == {0}
    assert shared(0.05) == frozenset()
    assert timed[1] == [{0}, frozenset()]
    assert not file.exists()


def test_what_is_not_clear_is_measured_once_and_kept(timed, file):
    assert shared(0.6) == {0}
    assert timed[1] == [frozenset(), {0}, {0}]
    kept = json.loads(file.read_text())
    assert list(kept.values()) == [True]
    (key,) = kept
    assert key.startswith(f"{MACHINE.name}: batch, 0.")
    timed[0]["shared"] = 3.0  # slower now, and nobody looks
    assert shared(0.6) == {0}
    assert len(timed[1]) == 4


def test_the_slower_of_two_is_not_taken(timed, file):
    timed[0]["shared"] = 3.0
    assert shared(0.6) == frozenset()
    assert list(json.loads(file.read_text()).values()) == [False]


@pytest.mark.parametrize("broken", ["{", "[1]", '{"x": 3}'])
def test_a_broken_file_of_choices_is_made_again(timed, file, broken):
    file.write_text(broken)
    assert shared(0.6) == {0}
    assert list(json.loads(file.read_text()).values()) == [True]


def test_choices_that_cannot_be_kept_are_only_a_warning(timed, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEDGEROW_CACHE", str(tmp_path / "file" / "sub"))
    with pytest.warns(UserWarning, match="set HEDGEROW_CACHE"):
        assert shared(0.6) == {0}


def test_without_measuring_a_rule_decides(timed, file):
    timed[0]["shared"] = 3.0
    assert shared(0.7, measured=False) == {0}
    assert not file.exists()


def test_measuring_times_every_step_of_the_network():
    made = choice.batch_schedule(network(0.5), MACHINE)
    found = choice._times(made)
    assert set(found) == {-1, 0, 1, 2}  # images in, the convolution, the last layer, logits out
    assert all(0 < seconds < 1 for seconds in found.values())
