"""Values that are not numbers stop training with a way back; the metrics file stays true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import phase_cases
import pytest
import torch
from phase_cases import Recorder, Stop, run_phase
from torch import Tensor, nn

from hedgerow.data import Split
from hedgerow.errors import NumericsError
from hedgerow.files import load_checkpoint
from hedgerow.objectives import Natural
from hedgerow.pruners import Dense
from hedgerow.training import MetricsFile, Setting, read_metrics, train
from hedgerow.training.state import Standing


class NaNAt:
    """Cross-entropy, and NaN in the call with the given number (from 0)."""

    def __init__(self, call: int) -> None:
        self.call, self.calls = call, 0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: Any = None) -> Any:
        loss, scalars = Natural()(model, x, y)
        self.calls += 1
        return (loss * float("nan") if self.calls == self.call + 1 else loss), scalars


class HugeGradientAt(NaNAt):
    """A loss of 0 whose gradient overflows the weights, in the call with the given number."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: Any = None) -> Any:
        loss, scalars = Natural()(model, x, y)
        self.calls += 1
        if self.calls == self.call + 1:
            weight = next(p for p in model.parameters() if p.requires_grad)
            loss = (3e38 * (weight - weight.detach())).sum()
        return loss, scalars


def fails(split: Split, folder: Path | None, objective: Any, **options: Any) -> str:
    setting = Setting(folder=folder, phase="pretrain", **options)
    plan = phase_cases.plan(lr=20.0 if isinstance(objective, HugeGradientAt) else 0.01)
    with pytest.raises(NumericsError) as caught:
        train(phase_cases.model(), split, objective, plan=plan, pruner=Dense(), setting=setting)
    return str(caught.value)


@pytest.mark.parametrize(
    ("call", "save_every", "epoch", "step", "good"),
    [(4, 300.0, 2, 1, (1, 0)), (6, 300.0, 2, 3, (1, 0)), (6, 0.0, 2, 3, (1, 2)), (11, 0.0, 3, 4, (2, 3))],
)
def test_a_loss_that_is_nan_says_where_and_what_is_still_good(
    split: Split, tmp_path: Path, call: int, save_every: float, epoch: int, step: int, good: tuple[int, int]
) -> None:
    message = fails(split, tmp_path, NaNAt(call), save_every=save_every)
    assert f"phase pretrain, epoch {epoch} of 3, step {step}: the loss is not a number" in message
    assert "learning rate 0.0" in message
    assert "Lower phases.pretrain.lr" in message
    checkpoint = tmp_path / "pretrain-last.pt"
    assert str(checkpoint) in message
    state = load_checkpoint(checkpoint)
    assert (state["standing"]["epoch"], state["standing"]["step"]) == good
    assert all(t.isfinite().all() for t in state["model"].values())


def test_a_network_goes_on_from_the_good_checkpoint(split: Split, tmp_path: Path) -> None:
    fails(split, tmp_path, NaNAt(6), save_every=0.0)
    recorder = Recorder()
    setting = Setting(folder=tmp_path, phase="pretrain", listeners=(recorder,))
    train(phase_cases.model(), split, Natural(), plan=phase_cases.plan(lr=0.01), setting=setting)
    assert min(recorder.losses) == (1, 2)


def test_a_nan_before_any_checkpoint_says_so(split: Split, tmp_path: Path) -> None:
    assert "step 1: the loss is not a number" in fails(split, tmp_path, NaNAt(0))
    message = fails(split, None, NaNAt(2))
    assert "epoch 1 of 3, step 3" in message
    assert "No checkpoint was written yet" in message


def test_infinite_weights_under_a_finite_loss_are_refused_before_they_are_saved(
    split: Split, tmp_path: Path
) -> None:
    message = fails(split, tmp_path, HugeGradientAt(7))
    assert "phase pretrain, epoch 2 of 3, step 4: a weight is NaN or infinite although the loss is not" in message
    assert str(tmp_path / "pretrain-last.pt") in message
    state = load_checkpoint(tmp_path / "pretrain-last.pt")
    assert state["standing"]["epoch"] == 1
    assert all(t.isfinite().all() for t in state["model"].values())


def test_infinite_weights_are_not_saved_in_the_middle_of_an_epoch(split: Split, tmp_path: Path) -> None:
    fails(split, tmp_path, HugeGradientAt(5), save_every=0.0)
    for name in ("pretrain-last.pt", "pretrain-previous.pt"):
        assert all(t.isfinite().all() for t in load_checkpoint(tmp_path / name)["model"].values())


def test_the_metrics_file_has_every_epoch_once_and_in_order(split: Split, tmp_path: Path) -> None:
    for stop in ((0, 2), (1, None), (2, 1)):
        with pytest.raises(Stop):
            run_phase(split, "pretrain", tmp_path, recorder=Recorder(stop=stop))
    whole = run_phase(split, "pretrain", tmp_path)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(m["phase"], m["epoch"], m["epochs"]) for m in rows] == [("pretrain", e, 3) for e in (1, 2, 3)]
    assert rows[-1] == whole.metrics[-1]
    assert {"loss", "train_accuracy", "clean", "robust", "lr", "seconds", "images_per_second"} <= set(rows[0])


def test_the_logged_loss_is_the_mean_over_images(split: Split) -> None:
    recorder = Recorder()
    train(
        phase_cases.model(),
        split,
        Natural(),
        plan=phase_cases.plan(epochs=1),
        setting=Setting(listeners=(recorder,)),
    )
    sizes = [32, 32, 32, 24]
    losses = [recorder.losses[0, i] for i in range(4)]
    mean = sum(n * loss for n, loss in zip(sizes, losses, strict=True)) / 120
    assert recorder.epochs[0]["loss"] == pytest.approx(mean, rel=1e-12)


def test_the_penalty_is_part_of_the_loss_that_is_trained_and_logged(split: Split) -> None:
    class Heavy(Dense):
        def penalty(self) -> Tensor:
            return torch.tensor(1000.0)

    recorder = Recorder()
    plan, setting = phase_cases.plan(epochs=1), Setting(listeners=(recorder,))
    train(phase_cases.model(), split, Natural(), plan=plan, pruner=Heavy(), setting=setting)
    assert min(recorder.losses.values()) > 1000


def test_a_last_line_cut_short_is_left_out_and_written_over(split: Split, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(Stop):
        run_phase(split, "pretrain", tmp_path, recorder=Recorder(stop=(2, 1)))
    whole_lines = path.read_text(encoding="utf-8")
    path.write_text(whole_lines + '{"phase": "pretrain", "epo', encoding="utf-8")
    assert [m["epoch"] for m in read_metrics(path)] == [1, 2]
    run_phase(split, "pretrain", tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


def test_a_new_start_drops_what_an_unsaved_phase_had_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"phase": "pretrain", "epoch": 1}, {"phase": "prune", "epoch": 1}, {"phase": "prune", "epoch": 2}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    MetricsFile(path).start("prune", phase_cases.plan(), Standing(epoch=1), 4)
    assert read_metrics(path) == rows[:2]
    assert read_metrics(tmp_path / "absent.jsonl") == []
