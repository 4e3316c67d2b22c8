"""One settings table over all pruners, each through the training loop: the generic promises."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import phase_cases
import pytest
import torch
from phase_cases import Recorder, Stop, Trained, run_phase, same_state
from torch import nn

from hedgerow.data import Split
from hedgerow.files import read_tensors, write_tensors
from hedgerow.pruners import PRUNERS, Dense, FixedMask, Hydra, Magnitude, Pruner
from hedgerow.sparsity import Masks, prunable_weights
from hedgerow.training import Plan


def single_weights(name: str) -> dict[str, Any]:
    """Choose weights one by one, where a method offers it: budgets of groups are rounded to groups."""
    offered = "granularity" in inspect.signature(PRUNERS[name]).parameters
    return {"granularity": "weight"} if offered and "weight" in PRUNERS[name].granularities else {}


# Options beside the defaults, by method; a method that is not here is checked with its defaults.
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "hydra": [{}, {"init": "random", "train_norm": False, "score_decay": 0.001}],
}
LAYER_BY_LAYER = ("magnitude", "hydra")
CASES = [(name, {**single_weights(name), **o}) for name in PRUNERS for o in SETTINGS.get(name, [{}])]
IDS = [f"{name}-{i}" for i, (name, _) in enumerate(CASES)]
OPTIMISERS = {"sgd": {"lr": 0.05}, "adamw": {"lr": 0.01}}
every_pruner = pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)


def maker(name: str, options: dict[str, Any]) -> Callable[[nn.Module], Pruner]:
    return lambda net: PRUNERS[name](**options)


def how(name: str, **changes: Any) -> Plan:
    return phase_cases.plan(**({} if PRUNERS[name].learns else {"epochs": 0}), **changes)


@functools.cache
def pruned(case: int, sparsity: float = 0.7) -> Trained:
    name, options = CASES[case]
    split = phase_cases.digits()
    return run_phase(split, "prune", None, how=how(name), pruner=maker(name, options), sparsity=sparsity)


def case_of(name: str, options: dict[str, Any]) -> int:
    return CASES.index((name, options))


@every_pruner
def test_it_trains(name: str, options: dict[str, Any]) -> None:
    found = pruned(case_of(name, options))
    assert all(torch.isfinite(t).all() for t in found.state.values())
    if PRUNERS[name].learns:
        assert found.outcome.epochs == 3
        assert len(found.losses) == 12
        assert found.outcome.images == 360
    else:
        assert found.outcome.epochs == 0
        assert found.losses == {}
        assert found.outcome.selected_epoch is None


@every_pruner
def test_it_resumes_bit_for_bit(split: Split, tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    if PRUNERS[name].learns:
        stop = Recorder(stop=(1, 2))
        with pytest.raises(Stop):
            run_phase(
                split,
                "prune",
                tmp_path,
                how=how(name),
                pruner=maker(name, options),
                recorder=stop,
                save_every=0.0,
            )
    resumed = run_phase(split, "prune", tmp_path, how=how(name), pruner=maker(name, options))
    assert not PRUNERS[name].learns or min(resumed.losses) == (1, 2)
    whole = pruned(case_of(name, options))
    assert same_state(resumed.state, whole.state)
    assert same_state(resumed.outcome.masks, whole.outcome.masks)


@every_pruner
@pytest.mark.parametrize("sparsity", ["1/2", "0.9", "0.99"])
def test_it_meets_its_budget_exactly(name: str, options: dict[str, Any], sparsity: str) -> None:
    found = pruned(case_of(name, options), sparsity=sparsity)  # type: ignore[arg-type]
    kept = {weight: int((found.state[weight] != 0).sum()) for weight in ("0.weight", "5.weight")}
    assert all(torch.equal(found.state[weight] != 0, found.outcome.masks[weight]) for weight in kept)
    share = Fraction(sparsity)
    layers = {w: n - share.numerator * n // share.denominator for w, n in (("0.weight", 54), ("5.weight", 2160))}
    allowed = {sum(layers.values()), 2214 - share.numerator * 2214 // share.denominator}
    if name in LAYER_BY_LAYER:
        assert kept == layers
    elif "weight" not in PRUNERS[name].granularities:  # whole channels of 36 features; those of the image stay
        assert kept == {"0.weight": 54, "5.weight": 360 * max(1, 6 - math.floor(share * 6))}
    elif getattr(PRUNERS[name], "learns_budget", False):  # never more than asked
        assert 0 < sum(kept.values()) <= max(allowed)
    else:  # the network's count, met as a whole or as the sum of its layers' counts
        assert sum(kept.values()) in allowed


@every_pruner
def test_it_leaves_the_users_own_module(name: str, options: dict[str, Any]) -> None:
    assert list(pruned(case_of(name, options)).state) == list(phase_cases.model().state_dict())


@every_pruner
@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_zeros_stay_zero_through_fine_tuning_saving_and_loading(
    split: Split, tmp_path: Path, name: str, options: dict[str, Any], optimizer: str
) -> None:
    masks = pruned(case_of(name, options)).outcome.masks
    zeros = {place: ~mask for place, mask in masks.items()}
    dense: list[dict[str, torch.Tensor]] = []

    class Watching(FixedMask):
        def after_step(self, progress: object) -> None:
            dense.append({n: w.dense.detach()[zeros[n]].clone() for n, w in self.weights.items()})

    changes = {**OPTIMISERS[optimizer], "optimizer": optimizer, "weight_decay": 0.1, "momentum": 0.9}
    tuned = run_phase(split, "finetune", None, how=phase_cases.plan(**changes), pruner=lambda net: Watching(masks))
    assert len(dense) == 12
    assert all((removed == 0).all() for step in dense for removed in step.values())
    write_tensors(tmp_path / "model.safetensors", tuned.state)
    loaded, _ = read_tensors(tmp_path / "model.safetensors")
    assert same_state(dict(sorted(loaded.items())), dict(sorted(tuned.state.items())))
    before = phase_cases.model().state_dict()
    for weight, removed in zeros.items():
        bits = loaded[weight][removed].numpy().tobytes()
        assert bits == bytes(len(bits))  # exactly +0
        assert (loaded[weight][~removed] != before[weight][~removed]).any()  # and the others did move


@every_pruner
def test_a_pruned_network_survives_reload(
    split: Split, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    found = pruned(case_of(name, options))
    write_tensors(tmp_path / "model.safetensors", found.state)
    loaded = phase_cases.model(seed=9)
    loaded.load_state_dict(read_tensors(tmp_path / "model.safetensors")[0])
    ours = phase_cases.model(seed=8)
    ours.load_state_dict(found.state)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(split.pixels()), ours.eval()(split.pixels()))


@every_pruner
def test_a_finished_network_can_be_fine_tuned_and_pruned_again(name: str, options: dict[str, Any]) -> None:
    net = phase_cases.model()
    net.load_state_dict(pruned(case_of(name, options)).state)
    again = Magnitude()
    again.attach(net, phase_cases.Budget(0.9))
    masks = again.finish()
    first = pruned(case_of(name, options)).outcome.masks
    assert all((~masks[n] | first[n]).all() for n in masks)  # the kept of 90 % are among the kept of 70 %


def all_true(net: nn.Module) -> Masks:
    return {n: torch.ones_like(w.dense, dtype=torch.bool) for n, w in prunable_weights(net).items()}


def magnitude_at_zero(net: nn.Module) -> Masks:
    return phase_cases.magnitude_masks(net, 0)


def hydra_at_zero(net: nn.Module) -> Masks:
    hydra = Hydra()
    hydra.attach(net, phase_cases.Budget(0))
    return hydra.finish()


@pytest.mark.parametrize("optimizer", OPTIMISERS)
@pytest.mark.parametrize("masks", [all_true, magnitude_at_zero, hydra_at_zero])
def test_nothing_removed_is_dense_training_bit_for_bit(
    split: Split, masks: Callable[[nn.Module], Masks], optimizer: str
) -> None:
    plan = phase_cases.plan(**OPTIMISERS[optimizer], optimizer=optimizer)
    dense = run_phase(split, "same", None, how=plan, pruner=lambda net: Dense())
    full = run_phase(split, "same", None, how=plan, pruner=lambda net: FixedMask(masks(net)))
    assert same_state(full.state, dense.state)
    assert full.losses == dense.losses
    assert all(mask.all() for mask in full.outcome.masks.values())
