"""The table of costs: ratios by hand, speed against the dense network alone, and plain words for no gain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hedgerow.report import write_report
from hedgerow.report.costs import gains_notes, gains_table, survival_notes, survival_table, verdict
from hedgerow.report.words import TIMES
from hedgerow.result import Cost, Latency, Measure, StoredForm, Survival


def time(form: str, engine: str, ms: float, batch: int = 1, threads: int = 1) -> Latency:
    return Latency(
        form=form,
        engine=engine,
        threads=threads,
        batch=batch,
        median_ms=ms,
        low_ms=ms,
        high_ms=ms,
        runs=9,
        images_per_second=1000 * batch / ms,
        load_seconds=1,
        peak_memory=10**8,
    )


def stored(form: str, size: int, zipped: int) -> StoredForm:
    return StoredForm(
        form=form,
        file=f"{form}.x",
        bytes=size,
        zipped=zipped,
        images=5,
        largest_difference=0.5,
        relative_difference=0.25,
        same_class=4,
    )


def cost() -> Cost:
    return Cost(
        parameters=1000,
        nonzeros=100,
        flops_dense=5000,
        flops_sparse=600,
        flops_unknown=[],
        bytes_dense=4000,
        forms=[stored("sparse", 500, 400), stored("onnx", 4100, 500), stored("torch-export", 3990, 1000)],
        latencies=[
            time("dense", "onnxruntime", 8.0),
            time("dense", "onnxruntime", 300.0, batch=64),
            time("sparse", "sparse", 2.0),
            time("sparse", "sparse", 20.0, batch=64),
            time("onnx", "onnxruntime", 7.9),
            time("onnx", "onnxruntime", 400.0, batch=64),
        ],
        refused={"shrunk": "cannot be traced"},
        machine={"cores": 2},
    )


def test_ratios_are_against_the_dense_network() -> None:
    headings, dense, sparse, onnx, program = (
        [cell.replace(TIMES, "x") for cell in row] for row in gains_table(cost())
    )
    assert headings[5:] == ["engine", "batch 1", "batch 64", "logits differ", "gains"]
    assert dense == ["dense float32", "4,000", "", "", "", "onnxruntime", "8 ms", "300 ms", "", "(the yardstick)"]
    assert sparse[1:5] == ["500", "8.00x", "400", "10x"]
    assert sparse[5:] == ["sparse", "2 ms (4.00x)", "20 ms (15x)", "0.2", "size and speed"]
    assert onnx[5:] == ["onnxruntime", "7.9 ms (1.01x)", "400 ms (0.75x)", "0.2", "nothing"]
    assert program[5:] == ["not timed", "-", "-", "0.2", "nothing"]


def test_no_gain_is_said_in_words_and_so_is_a_refusal() -> None:
    notes = gains_notes(cost())
    assert notes[0] == "nothing is gained by onnx under onnxruntime, torch-export on this machine"
    assert notes[1] == "100 of 1,000 parameters are not zero; 600 of 5,000 FLOPs an image are with them"
    assert notes[-1] == "refused: shrunk: cannot be traced"
    unknown = gains_notes(cost().model_copy(update={"flops_unknown": ["odd (a.b)"]}))
    assert unknown[1].endswith("FLOPs are not known of odd (a.b)")


def test_no_speed_up_is_stated_without_the_yardstick() -> None:
    alone = cost().model_copy(update={"latencies": [time("sparse", "torch", 2.0), time("sparse", "sparse", 1.0)]})
    rows = gains_table(alone)
    assert [row[5] for row in rows[2:4]] == ["torch", "sparse"]
    assert [row[6] for row in rows[1:4]] == ["-", "2 ms", "1 ms"]
    assert verdict(alone, "sparse", "sparse") == "size"
    assert "no speed-up is stated: the dense network was not timed under ONNX Runtime" in gains_notes(alone)


def test_threads_are_told_apart() -> None:
    record = cost()
    record.latencies.append(time("dense", "onnxruntime", 5.0, threads=2))
    assert gains_table(record)[0][6:9] == ["batch 1, 1 thread", "batch 64, 1 thread", "batch 1, 2 threads"]


def survival(form: str, clean: int, changed: int, note: str = "") -> Survival:
    found = Measure(correct=clean, n=10, accuracy=clean / 10, low=0, high=1, how="unchanged images", seed=0)
    return Survival(form=form, measures={"clean": found}, changed={"clean": changed}, note=note)


def test_what_is_left_of_robustness(make_run: Callable[..., Path], tmp_path: Path) -> None:
    found = [survival("network", 9, 0), survival("onnx", 7, 2, "gives no gradients")]
    assert survival_table(found) == [
        ["format", "clean", "changed"],
        ["network", "90.00%", "0"],
        ["onnx", "70.00%", "2"],
    ]
    notes = survival_notes(found)
    assert notes[0] == "clean: unchanged images; n = 10"
    assert notes[-1] == "onnx: gives no gradients"
    page = write_report([make_run(cost=cost(), survival=found), make_run("other")], tmp_path / "page.html")
    text = page.read_text()
    assert text.count('<section id="cost">') == 1
    assert text.count("hydra-97: Sizes and times") == 1  # one run has a cost
    assert "nothing is gained by onnx under onnxruntime" in text
    assert '<a href="#cost">' in text


def test_a_page_without_costs_counts_parameters_alone(make_run: Callable[..., Path], tmp_path: Path) -> None:
    text = write_report([make_run()], tmp_path / "page.html").read_text()
    assert "Parameters and FLOPs of the networks" in text
    assert "No file was exported and timed" in text
    assert "Sizes and times" not in text


@pytest.mark.parametrize(("size", "gain"), [(3809, "size"), (3810, "nothing"), (8000, "nothing")])
def test_a_gain_is_five_percent_or_more(size: int, gain: str) -> None:
    record = cost().model_copy(update={"forms": [stored("sparse", size, 1)], "latencies": []})
    assert verdict(record, "sparse", None) == gain
