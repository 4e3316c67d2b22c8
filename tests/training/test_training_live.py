"""TensorBoard and MLflow: every epoch once, whatever was interrupted; only the first process writes."""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hedgerow.errors import HedgerowError, MissingPackageError
from hedgerow.training import Metrics, Plan, open_logs
from hedgerow.training import live as live_module
from hedgerow.training.live import MlflowLog, TensorBoardLog, flattened, numbers
from hedgerow.training.state import Standing

PLAN = Plan(epochs=4)


def metrics(epoch: int, phase: str = "prune") -> Metrics:
    scores = {"loss": 1 / epoch, "clean": 0.1 * epoch, "lr": 0.01, "seconds": 100.0}
    return {"phase": phase, "epoch": epoch, "epochs": 4, **scores}


def write_metrics(file: Path, *epochs: int) -> None:
    file.write_text("".join(json.dumps(metrics(e)) + "\n" for e in epochs), encoding="utf-8")


def events(folder: Path) -> dict[str, list[Any]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: found.Scalars(tag) for tag in found.Tags()["scalars"]}


class Team:
    first = False


def test_numbers_are_what_is_not_the_place() -> None:
    assert numbers({**metrics(2), "alarm": "look"}) == {"loss": 0.5, "clean": 0.2, "lr": 0.01, "seconds": 100.0}
    nested = {"a": {"b": 1, "c": None, "d": {"e": "x"}}, "f": [], "g": 0}
    assert flattened(nested) == [("a.b", 1), ("a.d.e", "x"), ("g", 0)]


def test_tensorboard_shows_every_epoch_at_once_and_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    file = tmp_path / "metrics.jsonl"
    log = TensorBoardLog(tmp_path, file)
    log.start("prune", PLAN, Standing(), 10)
    for epoch in (1, 2):
        log.epoch(metrics(epoch))
        assert [e.step for e in events(tmp_path / "tensorboard" / "prune")["loss"]] == list(range(1, epoch + 1))
    write_metrics(file, 1, 2)  # it stopped before the checkpoint of epoch 2: that one is trained again
    again = TensorBoardLog(tmp_path, file)
    before = time.time()
    again.start("prune", PLAN, Standing(epoch=1), 10)
    for epoch in (2, 3, 4):
        again.epoch(metrics(epoch))
    found = events(tmp_path / "tensorboard" / "prune")
    assert set(found) == {"loss", "clean", "lr", "seconds"}
    assert [e.step for e in found["clean"]] == [1, 2, 3, 4]
    assert [e.value for e in found["clean"]] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert len(list((tmp_path / "tensorboard" / "prune").iterdir())) == 1
    assert found["loss"][0].wall_time == pytest.approx(before, abs=20)


def test_tensorboard_dates_what_is_kept_by_the_time_training_took(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    write_metrics(tmp_path / "metrics.jsonl", 1, 2, 3)
    log = TensorBoardLog(tmp_path, tmp_path / "metrics.jsonl")
    log.start("prune", PLAN, Standing(epoch=3), 10)
    log.epoch({**metrics(4), "alarm": "robust accuracy fell"})
    times = [e.wall_time for e in events(tmp_path / "tensorboard" / "prune")["loss"]]
    assert [round(b - a) for a, b in itertools.pairwise(times[:3])] == [100, 100]


def test_mlflow_gets_every_epoch_once_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    for stop, start in ((2, 0), (4, 1)):  # it stopped after epoch 2 was sent, before its checkpoint
        (log,) = open_logs(
            ["mlflow"], tmp_path, metrics=tmp_path / "none", settings={"name": "tiny", "pruning": {"lr": 0.1}}
        )
        log.start("prune", PLAN, Standing(epoch=start), 10)
        for epoch in range(start + 1, stop + 1):
            log.epoch(metrics(epoch))
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("hedgerow")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == (tmp_path / "mlflow-run.txt").read_text(encoding="utf-8")
    assert (run.info.run_name, run.info.status) == ("tiny", "FINISHED")
    assert run.data.params == {"name": "tiny", "pruning.lr": "0.1"}
    history = client.get_metric_history(run.info.run_id, "prune/clean")
    assert [(m.step, m.value) for m in history] == [(e, pytest.approx(0.1 * e)) for e in (1, 2, 3, 4)]


class Refusing:
    """An MLflow client whose server is away for the first batch of metrics."""

    def __init__(self, error: type[Exception], away: int = 1) -> None:
        self.error, self.away = error, away
        self.steps: list[int] = []

    def log_batch(self, run: str, metrics: list[Any]) -> None:
        if self.away:
            self.away -= 1
            raise self.error("no answer\nlong story")
        self.steps.append(metrics[0].step)

    def set_terminated(self, run: str) -> None:
        pass


def test_a_server_that_is_away_stops_nothing_and_gets_all_later(tmp_path: Path) -> None:
    exceptions = pytest.importorskip("mlflow.exceptions")
    log = MlflowLog(tmp_path, "tiny", {})
    log._client, log.run, log._sent = Refusing(exceptions.MlflowException), "number", 0
    with pytest.warns(
        UserWarning, match=r"MLflow takes no metrics \(no answer\); tried again with the next epoch"
    ):
        log.epoch(metrics(1))
    log.epoch(metrics(2))
    assert log._client.steps == [1, 2]


def test_an_mlflow_that_cannot_be_is_an_error_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nosuch://server")
    (log,) = open_logs(["mlflow"], tmp_path, metrics=tmp_path / "none", settings={})
    with pytest.raises(HedgerowError, match=r"MLflow cannot keep this run .*Look at MLFLOW_TRACKING_URI"):
        log.start("prune", PLAN, Standing(), 10)


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("mlflow")
    monkeypatch.setattr(live_module, "team", Team)
    for log in open_logs(["tensorboard", "mlflow"], tmp_path, metrics=tmp_path / "none", settings={}):
        log.start("prune", PLAN, Standing(), 10)
        log.epoch(metrics(1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "module", "install"),
    [
        ("tensorboard", "torch.utils.tensorboard.writer", r"pip install hedgerow\[log\]"),
        ("mlflow", "mlflow", "pip install mlflow"),
    ],
)
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any, module: str, install: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=install):
        open_logs([name], tmp_path, metrics=tmp_path / "none", settings={})
