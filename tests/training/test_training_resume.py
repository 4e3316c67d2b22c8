"""A phase that is interrupted and called again ends where an uninterrupted one ends, bit for bit."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import phase_cases
import pytest
import torch
from phase_cases import EPOCHS, PHASES, STEPS, Recorder, Stop, Trained, run_phase, same_state, without_clock

from hedgerow.data import Split
from hedgerow.errors import CheckpointError
from hedgerow.files import load_checkpoint
from hedgerow.pruners import Dense
from hedgerow.training import Plan, read_metrics

OPTIMISERS = {
    "sgd": {"optimizer": "sgd", "weight_decay": 0.01},
    "adamw": {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1},
}
INTERRUPTIONS: dict[str, dict[str, Any]] = {
    "epoch boundary, before it is saved": {"stop": (1, None)},
    "epoch boundary, just saved": {"stop_at": 2 * STEPS},
    "middle of an epoch, never saved in it": {"stop": (1, 2)},
    "middle of an epoch, saved every step": {"stop": (1, 2), "save_every": 0.0},
    "in the loss, saved every step": {"stop_at": STEPS + 3, "save_every": 0.0},
    "in the first epoch, saved every step": {"stop": (0, 1), "save_every": 0.0},
}
FIRST_STEP_AGAIN = dict(zip(INTERRUPTIONS, [(1, 0), (2, 0), (1, 0), (1, 2), (1, 3), (0, 1)], strict=True))


def how(optimizer: str) -> Plan:
    return phase_cases.plan(**OPTIMISERS[optimizer], warmup=0.2)


@functools.cache
def uninterrupted(phase: str, optimizer: str) -> Trained:
    return run_phase(phase_cases.digits(), phase, None, how=how(optimizer))


def interrupt(split: Split, phase: str, folder: Path, optimizer: str, interruption: dict[str, Any]) -> None:
    options = dict(interruption)
    recorder = Recorder(stop=options.pop("stop", None))
    with pytest.raises(Stop):
        run_phase(split, phase, folder, how=how(optimizer), recorder=recorder, **options)


def assert_same_end(resumed: Trained, whole: Trained, folder: Path) -> None:
    assert same_state(resumed.state, whole.state)
    assert same_state(resumed.outcome.masks, whole.outcome.masks)
    assert resumed.outcome.selected_epoch == whole.outcome.selected_epoch
    assert resumed.outcome.images == whole.outcome.images == EPOCHS * 120
    assert {place: whole.losses[place] for place in resumed.losses} == resumed.losses
    assert without_clock(read_metrics(folder / "metrics.jsonl")) == without_clock(whole.metrics)


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
@pytest.mark.parametrize("optimizer", OPTIMISERS)
@pytest.mark.parametrize("phase", PHASES)
def test_interrupted_and_resumed_equals_uninterrupted(
    split: Split, tmp_path: Path, phase: str, optimizer: str, interruption: str
) -> None:
    interrupt(split, phase, tmp_path, optimizer, INTERRUPTIONS[interruption])
    resumed = run_phase(split, phase, tmp_path, how=how(optimizer))
    assert min(resumed.losses) == FIRST_STEP_AGAIN[interruption]  # it went on, it did not start again
    assert_same_end(resumed, uninterrupted(phase, optimizer), tmp_path)


def test_the_optimisers_and_phases_of_the_table_do_differ() -> None:
    ends = [uninterrupted(phase, optimizer).state for phase in PHASES for optimizer in OPTIMISERS]
    assert not any(same_state(a, b) for i, a in enumerate(ends) for b in ends[:i])


def test_a_run_without_a_folder_equals_one_with_a_folder(split: Split, tmp_path: Path) -> None:
    kept = run_phase(split, "prune", tmp_path, how=how("sgd"), save_every=0.0)
    assert same_state(kept.state, uninterrupted("prune", "sgd").state)


def test_a_phase_interrupted_again_and_again_still_ends_the_same(split: Split, tmp_path: Path) -> None:
    for stop in [(0, 0), (0, 3), (1, None), (1, 3), (2, 2), (2, None)]:
        interrupt(split, "prune", tmp_path, "sgd", {"stop": stop, "save_every": 0.0})
    resumed = run_phase(split, "prune", tmp_path, how=how("sgd"))
    assert_same_end(resumed, uninterrupted("prune", "sgd"), tmp_path)


def test_a_phase_stopped_after_its_last_checkpoint_has_nothing_left_to_train(split: Split, tmp_path: Path) -> None:
    run_phase(split, "finetune", tmp_path, how=how("sgd"))
    again = run_phase(split, "finetune", tmp_path, how=how("sgd"))
    assert again.losses == {}
    assert_same_end(again, uninterrupted("finetune", "sgd"), tmp_path)


def test_a_checkpoint_cut_short_is_named_and_the_one_before_it_goes_on_to_the_same_end(
    split: Split, tmp_path: Path
) -> None:
    interrupt(split, "prune", tmp_path, "sgd", {"stop": (2, 2), "save_every": 0.0})
    last = tmp_path / "prune-last.pt"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"prune-last\.pt: .*cut short.*Delete it and resume") as caught:
        run_phase(split, "prune", tmp_path, how=how("sgd"))
    assert str(last) in str(caught.value)
    last.unlink()
    resumed = run_phase(split, "prune", tmp_path, how=how("sgd"))
    assert min(resumed.losses) == (2, 1)  # one step before the state that was lost
    assert_same_end(resumed, uninterrupted("prune", "sgd"), tmp_path)


def test_a_power_cut_between_setting_aside_and_writing_leaves_the_previous_state(
    split: Split, tmp_path: Path
) -> None:
    interrupt(split, "pretrain", tmp_path, "adamw", {"stop": (1, 2), "save_every": 0.0})
    (tmp_path / "pretrain-last.pt").replace(tmp_path / "pretrain-previous.pt")
    resumed = run_phase(split, "pretrain", tmp_path, how=how("adamw"))
    assert_same_end(resumed, uninterrupted("pretrain", "adamw"), tmp_path)


def test_checkpoints_are_whole_and_readable_without_running_code(split: Split, tmp_path: Path) -> None:
    interrupt(split, "prune", tmp_path, "sgd", {"stop": (1, 2), "save_every": 0.0})
    for name in ("prune-last.pt", "prune-previous.pt"):
        state = load_checkpoint(tmp_path / name)
        assert state["standing"]["epoch"] == 1
    assert not list(tmp_path.glob(".*"))


def another_model(split: Split, folder: Path) -> None:
    other = {"model": torch.nn.Linear(3, 2).state_dict()}
    state = load_checkpoint(folder / "pretrain-last.pt")
    torch.save({**state, **other}, folder / "pretrain-last.pt")
    run_phase(split, "pretrain", folder, how=how("sgd"))


def another_optimiser(split: Split, folder: Path) -> None:
    run_phase(split, "pretrain", folder, how=how("adamw"))


def another_decay(split: Split, folder: Path) -> None:
    run_phase(split, "pretrain", folder, how=phase_cases.plan(weight_decay=0.02))


def another_pruner(split: Split, folder: Path) -> None:
    run_phase(split, "pretrain", folder, how=how("sgd"), pruner=PHASES["prune"])


def another_program(split: Split, folder: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, folder / "pretrain-last.pt")
    run_phase(split, "pretrain", folder, how=how("sgd"))


@pytest.mark.parametrize(
    "foreign", [another_model, another_optimiser, another_decay, another_pruner, another_program]
)
def test_a_checkpoint_of_another_run_is_refused(split: Split, tmp_path: Path, foreign: Any) -> None:
    interrupt(split, "pretrain", tmp_path, "sgd", {"stop": (1, 2)})
    with pytest.raises(CheckpointError, match=r"pretrain-last\.pt: this checkpoint is of another run"):
        foreign(split, tmp_path)


def test_phases_in_one_folder_do_not_mix_their_checkpoints(split: Split, tmp_path: Path) -> None:
    interrupt(split, "pretrain", tmp_path, "sgd", {"stop": (1, 2)})
    run_phase(split, "prune", tmp_path, how=how("sgd"))
    resumed = run_phase(split, "pretrain", tmp_path, how=how("sgd"), pruner=lambda net: Dense())
    assert same_state(resumed.state, uninterrupted("pretrain", "sgd").state)
    phases = [(m["phase"], m["epoch"]) for m in read_metrics(tmp_path / "metrics.jsonl")]
    assert sorted(phases) == [(p, e) for p in ("pretrain", "prune") for e in (1, 2, 3)]
