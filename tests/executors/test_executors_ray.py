"""Cells as tasks of a real Ray cluster on this machine: a worker is killed, a sweep is paused, nothing is lost."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hedgerow.errors import MissingPackageError, TeamError
from hedgerow.executors import Paused, RayTasks, Task, carry_out
from hedgerow.pipeline import run_one
from hedgerow.recipe import parse_recipe
from hedgerow.runfolder import RunFolder
from hedgerow.training import read_metrics

EPOCHS = 80  # many short ones: the cell must still be at work when it is paused
RAW: dict[str, Any] = {
    "name": "tiny",
    "device": "cpu",
    "data": {"train_limit": 120, "validation": 20, "test_limit": 30},
    "objective": {"name": "natural"},
    "phases": {"pretrain": {"epochs": EPOCHS, "lr": 0.1, "batch_size": 20}},
    "evaluation": {
        "examples": 5,
        "pgd_steps": 1,
        "pgd_restarts": 1,
        "autoattack": False,
        "integrity": 0,
        "gallery": 0,
    },
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=1, num_gpus=0, include_dashboard=False, logging_level="error", log_to_driver=False)
    yield
    ray.shutdown()


def opened(folder: Path) -> Task:
    RunFolder(folder).open(parse_recipe(RAW))
    return Task(folder.name, folder, RunFolder(folder).result)


def carrier_of(folder: Path) -> int | None:
    """Return the number of the Ray worker that carries out the cell in this folder."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"hedgerow.executors.bound" in words and str(folder).encode() in words:
            return int(words[words.index(b"hedgerow.executors.bound") + 1])
    return None


@pytest.mark.usefixtures("cluster")
@pytest.mark.timeout(300)
def test_a_cell_goes_on_after_its_worker_was_killed_and_after_a_pause(tmp_path: Path) -> None:
    task, told, killed = opened(tmp_path / "cell"), [], []
    metrics = RunFolder(task.folder).metrics

    def kill_mid_cell() -> bool:
        if not killed and len(read_metrics(metrics)) >= 2:
            worker = carrier_of(task.folder)
            if worker is not None:
                os.kill(worker, signal.SIGKILL)
                killed.append(worker)
        return bool(killed) and any("retry 1 of 2" in line for line in told) and len(read_metrics(metrics)) >= 4

    workers = RayTasks(cpus=0.5, command="sweep")
    with pytest.raises(Paused):
        carry_out([task], workers, retries=2, tell=told.append, paused=kill_mid_cell, every=0.01)
    assert killed
    assert told == [f"cell: lost ({told[0].partition('(')[2].partition(')')[0]}); goes on, retry 1 of 2"]
    assert "WorkerCrashedError" in told[0]
    assert carrier_of(task.folder) is None
    assert not RunFolder(task.folder).model.exists()

    assert carry_out([task], workers, retries=2, every=0.05) == []
    assert [m["epoch"] for m in read_metrics(metrics)] == list(range(1, EPOCHS + 1))
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as half a CPU gets
    try:
        run_one(parse_recipe(RAW), tmp_path / "undisturbed")
    finally:
        torch.set_num_threads(before)
    same = [(folder / "model.safetensors").read_bytes() for folder in (task.folder, tmp_path / "undisturbed")]
    assert same[0] == same[1]


@pytest.mark.usefixtures("cluster")
def test_a_folder_that_a_machine_does_not_see_is_said(tmp_path: Path) -> None:
    task = Task("cell", tmp_path / "elsewhere", tmp_path / "done")
    ((_, ending),) = carry_out([task], RayTasks(cpus=0.25), every=0.05)
    assert ending.status == 1
    assert "all machines must share the file system" in ending.last


@pytest.mark.usefixtures("cluster")
def test_a_cell_larger_than_any_machine_is_said(tmp_path: Path) -> None:
    workers = RayTasks(cpus=1, gpus=0.25)
    assert "--cpus 1 --gpus 0.25: no machine of the Ray cluster has as much" in workers.warning


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "host:port"])
def test_an_address_without_a_cluster_is_said_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(TeamError, match=rf"no Ray cluster at {address}: .*`ray start --head`"):
        RayTasks(address)


def test_amounts_that_ray_does_not_know() -> None:
    for cpus, gpus in ((-1, 0), (0, 0), (0, -0.5)):
        with pytest.raises(TeamError, match="both from 0 on, and one of them above 0"):
            RayTasks(cpus=cpus, gpus=gpus)
    with pytest.raises(TeamError, match="Ray divides one device; above 1 give whole ones"):
        RayTasks(gpus=1.5)


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"pip install hedgerow\[sweep\]"):
        RayTasks()
