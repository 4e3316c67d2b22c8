"""A phase that crafts on the non-zeros alone: where it should be, the same up to rounding, resumed bit for bit."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import phase_cases
import pytest
from phase_cases import EPOCHS, STEPS, Recorder, Stop, Trained, run_phase, same_state
from torch import nn

from hedgerow.attacks import standin
from hedgerow.data import Split
from hedgerow.pruners import PRUNERS, FixedMask, Hydra, Pruner
from hedgerow.runtime import SparseModel
from hedgerow.training import Setting

SPARSITY = 0.85


def fixed(net: nn.Module) -> Pruner:
    return FixedMask(phase_cases.magnitude_masks(net, SPARSITY))


METHODS = {"hydra": lambda net: Hydra(), "fixed": fixed}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[SparseModel]:
    """What stood in for the network, one for each time that it was attacked."""
    found: list[SparseModel] = []

    class Counted(SparseModel):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            found.append(self)

    monkeypatch.setattr(standin, "SparseModel", Counted)
    monkeypatch.setattr(standin, "ENOUGH", 0)
    return found


def trained(split: Split, method: str, folder: Path | None = None, **more: Any) -> Trained:
    return run_phase(split, "prune", folder, pruner=METHODS[method], sparsity=SPARSITY, **more)


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_what_crafting_on_the_masked_network_teaches(
    split: Split, made: list[SparseModel], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    sparse = trained(split, method)
    assert len(made) == EPOCHS * (STEPS + 1)  # every step and every validation
    monkeypatch.setattr(standin, "ENOUGH", float("inf"))
    dense = trained(split, method)
    assert len(made) == EPOCHS * (STEPS + 1)
    assert sparse.losses[0, 0] == pytest.approx(dense.losses[0, 0], rel=1e-5)
    assert list(sparse.losses.values()) == pytest.approx(list(dense.losses.values()), rel=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_stopped_in_an_epoch_it_goes_on_bit_for_bit(
    split: Split, made: list[SparseModel], tmp_path: Path, method: str
) -> None:
    whole = trained(split, method)
    with pytest.raises(Stop):
        trained(split, method, tmp_path, recorder=Recorder(stop=(1, 2)), save_every=0.0)
    resumed = trained(split, method, tmp_path)
    assert made
    assert min(resumed.losses) == (1, 2)
    assert same_state(resumed.state, whole.state)
    assert {place: whole.losses[place] for place in resumed.losses} == resumed.losses


def test_a_method_that_trains_all_weights_is_crafted_on_all(split: Split, made: list[SparseModel]) -> None:
    run_phase(split, "prune", None, pruner=lambda net: PRUNERS["admm"](rho=0.01), sparsity=SPARSITY)
    assert len(made) <= EPOCHS  # at most the sparse networks that validation sees


def test_a_budget_that_keeps_much_is_left_alone(split: Split, made: list[SparseModel]) -> None:
    run_phase(split, "prune", None, pruner=METHODS["hydra"], sparsity=0.7)
    assert not made


@pytest.mark.parametrize(("choice", "times"), [("off", 0), ("on", EPOCHS * (STEPS + 1))])
def test_the_choice_is_the_users(
    split: Split, made: list[SparseModel], monkeypatch: pytest.MonkeyPatch, choice: str, times: int
) -> None:
    monkeypatch.setattr(standin, "ENOUGH", 0 if choice == "off" else 1e15)
    monkeypatch.setattr(phase_cases, "Setting", functools.partial(Setting, sparse_crafting=choice))
    trained(split, "fixed")
    assert len(made) == times
