"""Timing: an engine in a process of its own, honest records, and words for whatever goes wrong there."""

from __future__ import annotations

import subprocess
import sys
import time as clock
from pathlib import Path

import numpy as np
import pytest

from hedgerow.engines import ENGINES, Loaded
from hedgerow.engines.timing import Plan, Subject, measure
from hedgerow.engines.worker import answers, peak_memory, sampled
from hedgerow.errors import CheckpointError, DataError, ModelError
from hedgerow.registry import UnknownNameError

OWN = '''
import os, time
import numpy as np
from hedgerow.engines import Loaded
from hedgerow.errors import CheckpointError

class Slow:
    """5 ms for a batch, whatever its size; prints where answers are expected."""

    reads = (".own",)

    @staticmethod
    def load(path, threads):
        print("hello from a library")
        words = path.read_text()
        if words == "refuse":
            raise CheckpointError(f"{path}: not today")
        if words == "hog":
            block = np.ones(40_000_000)

        def compute(images):
            if words == "die":
                os._exit(3)
            time.sleep(0.005)
            return images.reshape(len(images), -1)[:, :threads]

        return Loaded(path, (2, 3, 3), compute)
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of an engine of the user's own, in the working directory."""
    (tmp_path / "own_engine_timed.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return "own_engine_timed:Slow"


def subject(own: str, words: str) -> Subject:
    path = Path(f"{words}.own")
    path.write_text(words)
    return Subject(words, own, path)


def test_times_memory_and_refusals_are_recorded_side_by_side(own: str) -> None:
    plan = Plan(batches=(1, 7), threads=(2,), seconds=0.03)
    subjects = [subject(own, words) for words in ("fine", "refuse", "hog")]
    said: list[str] = []
    found = measure(subjects, plan, tell=said.append)
    assert [(t.form, t.engine, t.threads, t.batch) for t in found.latencies] == [
        (form, own, 2, batch) for form in ("fine", "hog") for batch in (1, 7)
    ]
    for time in found.latencies:
        assert 5 <= time.low_ms <= time.median_ms <= time.high_ms
        assert time.images_per_second == pytest.approx(1000 * time.batch / time.median_ms)
        assert time.runs >= 15  # three rounds of five at least
    assert found.refused == {f"refuse under {own}": "refuse.own: not today"}
    memory = {time.form: time.peak_memory for time in found.latencies}
    assert memory["hog"] - memory["fine"] == pytest.approx(320e6, rel=0.1)
    assert said == ["timing batches of 1, threads 2: 2 files", "timing batches of 7, threads 2: 2 files"]


def test_a_process_that_dies_is_named_with_its_code(own: str) -> None:
    with pytest.raises(ModelError, match=r"die\.own: the process of the engine .* ended \(code 3\)"):
        measure([subject(own, "die")], Plan(batches=(1,), seconds=0.01))


def test_an_engine_that_nobody_registered() -> None:
    with pytest.raises(UnknownNameError, match="unknown engine 'sparce'; did you mean 'sparse'"):
        measure([Subject("x", "sparce", Path("x"))], Plan())
    assert list(ENGINES) == ["onnxruntime", "sparse", "torch"]


def test_an_engines_process_does_not_import_the_others() -> None:
    code = (
        "import sys, hedgerow.engines.worker\n"
        "print(sorted({'torch', 'onnxruntime', 'numba', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_worker_answers_in_order(own: str) -> None:
    path = subject(own, "fine").path
    questions = iter(['{"batch": 2, "seconds": 0.0}', "{}"])
    loaded, times, memory = answers(own, str(path), 1, questions)
    assert loaded["load_seconds"] > 0
    assert len(times["seconds"]) == 5
    assert min(times["seconds"]) >= 0.005
    assert memory["peak_memory"] <= peak_memory()


def test_runs_fill_the_time_they_are_given() -> None:
    seen: list[int] = []
    loaded = Loaded(Path("x"), (4,), lambda images: seen.append(len(images)) or images)  # type: ignore[func-returns-value]
    begin = clock.perf_counter()
    taken = sampled(loaded, np.zeros((3, 4), np.float32), 0.05)
    spent = clock.perf_counter() - begin
    assert spent >= 0.05
    assert sum(taken) <= spent
    assert len(taken) == len(seen) >= 5
    assert set(seen) == {3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches": (0,)}, r"batches are \[0\]; give sizes of 1 or more"),
        ({"batches": ()}, r"batches are \[\]"),
        ({"threads": (1, -2)}, r"threads are \[1, -2\]; give counts of 1 or more"),
        ({"seconds": 0.0}, "seconds is 0.0; give a time above 0"),
        ({"seconds": float("inf")}, "seconds is inf"),
    ],
)
def test_plans_that_make_no_sense(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Plan(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((2, 3, 8, 8), np.float32),
            r"x: images are float32 \[2, 3, 8, 8\]; this file takes float32 \[N, 1,",
        ),
        (np.zeros((2, 1, 8, 8), np.float64), "images are float64"),
        (np.zeros((0, 1, 8, 8), np.float32), "at least one"),
    ],
)
def test_images_that_do_not_fit_a_file(images: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Loaded(Path("x"), (1, 8, 8), lambda x: x)(images)
    with pytest.raises(DataError, match=r"takes float32 \[5, 1, 8, 8\]"):
        Loaded(Path("x"), (1, 8, 8), lambda x: x, 5)(np.zeros((4, 1, 8, 8), np.float32))


@pytest.mark.parametrize(
    ("engine", "suffix"), [("onnxruntime", "onnx"), ("torch", "pt2"), ("sparse", "safetensors")]
)
def test_files_that_are_not_there_or_not_whole(engine: str, suffix: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"nothing.{suffix}: no such file"):
        ENGINES[engine].load(tmp_path / f"nothing.{suffix}", 1)
    broken = tmp_path / f"broken.{suffix}"
    for content in (b"", b"PK\x03\x04 and no more", bytes(range(256))):
        broken.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"broken.{suffix}"):
            ENGINES[engine].load(broken, 1)
