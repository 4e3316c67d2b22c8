"""Processes that carry out cells: what they say, how they end, and that none outlives who started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hedgerow.executors import Local, Task

PARENT = (
    "import os, subprocess, sys, time\n"
    "code = 'import os, sys, time; from hedgerow.executors.bound import bind; bind(int(sys.argv[1]));'\n"
    "code += 'print(os.getpid(), flush=True); time.sleep(60)'\n"
    "subprocess.Popen([sys.executable, '-c', code, str(os.getpid())])\n"
    "time.sleep(60)\n"
)


def wait_for(condition: object, seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's death")
def test_a_cell_dies_with_the_process_that_started_it() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
        assert wait_for(lambda: not alive(child))


def test_a_cell_whose_parent_is_gone_already_does_not_start() -> None:
    code = "from hedgerow.executors.bound import bind; bind(1); print('started')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_a_cell_can_be_interrupted_whatever_it_inherited() -> None:
    code = (
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})\n"
        "from hedgerow.executors.bound import hear_interrupts\n"
        "hear_interrupts()\n"
        "try: os.kill(os.getpid(), signal.SIGINT); print('deaf')\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "interrupted"


def test_executors_import_nothing_heavy() -> None:
    code = "import sys, hedgerow.executors; print({'torch', 'ray', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_refusal_is_its_status_and_its_last_words(tmp_path: Path) -> None:
    workers, told = Local(1), []
    child = workers.start(Task("a", tmp_path / "none", tmp_path / "done"), told.append)
    assert wait_for(lambda: child.ended() is not None, 60)
    ending = child.ended()
    assert ending is not None
    assert ending.status == 2
    assert ending.last == f"error: {tmp_path / 'none'}: not a run folder (it has no recipe.yaml)"
    assert told[-1] == ending.last


def test_what_runs_is_stopped(tmp_path: Path) -> None:
    workers = Local(2)
    children = [workers.start(Task(n, tmp_path, tmp_path / "done"), lambda _: None) for n in "ab"]
    began = time.monotonic()
    workers.stop(children)
    assert time.monotonic() - began < 25
    statuses = [ending.status for child in children if (ending := child.ended())]
    assert len(statuses) == 2
    assert set(statuses) <= {-signal.SIGINT, 1, 2, 130}  # 2: it found nothing to resume before it was stopped


@pytest.mark.parametrize(("jobs", "beside", "threads"), [(2, 5, 4), (4, 1, 8), (16, 16, 1)])
def test_each_has_its_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, jobs: int, beside: int, threads: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    given: list[int] = []
    monkeypatch.setattr("hedgerow.executors.local.Child", lambda task, *, threads, **_: given.append(threads))
    Local(jobs).start(Task("a", tmp_path, tmp_path / "done", beside=beside), print)
    assert given == [threads]
