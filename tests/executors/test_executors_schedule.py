"""Which task runs when: needs, places, retries, failures, a pause; on workers that only write down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hedgerow.executors import Ending, Paused, Task, carry_out, failure


class Scripted:
    """Ends every task at the second look, as the script says, and writes its file when that is 0."""

    def __init__(self, slots: int | None = None, script: dict[str, list[int]] | None = None) -> None:
        self.slots, self.script = slots, script or {}
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.looked: dict[str, int] = {}
        self.most = 0

    def start(self, task: Task, tell: Callable[[str], None]) -> Task:
        self.started.append(task.name)
        self.looked[task.name] = 0
        self.most = max(self.most, len(self.looked))
        return task

    def ended(self, handle: Task) -> Ending | None:
        self.looked[handle.name] += 1
        if self.looked[handle.name] < 2:
            return None
        del self.looked[handle.name]
        status = self.script.get(handle.name, [0]).pop(0) if self.script.get(handle.name) else 0
        if status == 0:
            handle.done.touch()
        return Ending(status, f"{handle.name} says {status}")

    def stop(self, handles: Sequence[Task]) -> None:
        self.stopped += [handle.name for handle in handles]

    def close(self) -> None:
        pass


def tasks(folder: Path, *names: str) -> list[Task]:
    return [Task(name, folder, folder / f"{name}.done") for name in names]


def test_no_more_at_a_time_than_there_are_places(tmp_path: Path) -> None:
    workers = Scripted(2)
    assert carry_out(tasks(tmp_path, *"abcde"), workers, every=0) == []
    assert (workers.started, workers.most) == (list("abcde"), 2)
    everywhere = Scripted(None)
    assert carry_out(tasks(tmp_path, *"vwxyz"), everywhere, every=0) == []
    assert everywhere.most == 5


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    (tmp_path / "b.done").touch()
    workers = Scripted(1)
    carry_out(tasks(tmp_path, *"abc"), workers, every=0)
    assert workers.started == ["a", "c"]


def test_a_task_waits_for_what_it_needs(tmp_path: Path) -> None:
    first, second, third = tasks(tmp_path, "a", "b", "c")
    workers = Scripted(3)
    assert carry_out([replace(second, needs=first.done), third, first], workers, every=0) == []
    assert workers.started == ["c", "a", "b"]


def test_a_lost_task_goes_on_and_a_refused_one_does_not(tmp_path: Path) -> None:
    workers = Scripted(1, {"a": [-9, 1, 0], "b": [2], "c": [-9, -9, -9]})
    told: list[str] = []
    failed = carry_out(tasks(tmp_path, *"abcd"), workers, retries=2, tell=told.append, every=0)
    assert workers.started == [*"aaa", "b", *"ccc", "d"]
    assert [(task.name, ending.status) for task, ending in failed] == [("b", 2), ("c", -9)]
    assert told[:2] == [
        "a: lost (a says -9); goes on, retry 1 of 2",
        "a: lost (status 1 a says 1); goes on, retry 2 of 2",
    ]
    message = str(failure(failed))
    assert message == "cell b stopped with status 2: b says 2\ncell c stopped with status -9: c says -9"


def test_what_nobody_will_write_is_not_waited_for(tmp_path: Path) -> None:
    first, second, third = tasks(tmp_path, "a", "b", "c")
    workers = Scripted(2, {"a": [2]})
    failed = carry_out([first, replace(second, needs=first.done), third], workers, every=0)
    assert workers.started == ["a", "c"]
    assert [task.name for task, _ in failed] == ["a", "b"]
    assert "cell b was not started: " in str(failure(failed))
    assert "a.done is not there" in str(failure(failed))


def test_what_ended_well_is_waited_for_until_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(Scripted):
        def ended(self, handle: Task) -> Ending | None:
            return Ending(0)

    monkeypatch.setattr("hedgerow.executors.schedule.PATIENCE", 0.15)
    ((task, ending),) = carry_out(tasks(tmp_path, "a"), Forgetful(1), every=0)
    assert (task.name, ending.status) == ("a", 1)
    assert "ended well, and" in ending.last

    monkeypatch.setattr("hedgerow.executors.schedule.PATIENCE", 5)
    monkeypatch.setattr("hedgerow.executors.schedule.time.sleep", lambda _: (tmp_path / "a.done").touch())
    assert carry_out(tasks(tmp_path, "a"), Forgetful(1), every=0) == []


def test_what_comes_next_may_depend_on_what_was_found(tmp_path: Path) -> None:
    workers = Scripted(1, {"b": [2]})
    rest = tasks(tmp_path, "b", "c")
    seen: list[tuple[str, int]] = []

    def then(task: Task, ending: Ending) -> list[Task]:
        seen.append((task.name, ending.status))
        return [rest.pop(0)] if rest else []

    failed = carry_out(tasks(tmp_path, "a"), workers, then=then, every=0)
    assert seen == [("a", 0), ("b", 2), ("c", 0)]
    assert [task.name for task, _ in failed] == ["b"]


def test_a_pause_stops_what_runs_and_starts_nothing_more(tmp_path: Path) -> None:
    workers = Scripted(2)
    with pytest.raises(Paused):
        carry_out(tasks(tmp_path, *"abc"), workers, paused=lambda: bool(workers.started), every=0)
    assert (workers.started, workers.stopped) == (["a", "b"], ["a", "b"])
    assert issubclass(Paused, KeyboardInterrupt)
    assert carry_out(tasks(tmp_path, *"abc"), workers, every=0) == []
