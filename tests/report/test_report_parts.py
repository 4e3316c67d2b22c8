from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from report_folders import CLASSES, write_gallery

from hedgerow.errors import CheckpointError, HedgerowError
from hedgerow.files import read_tensors, write_tensors
from hedgerow.report import words, write_tables
from hedgerow.report.canvas import PALETTE
from hedgerow.report.gallery import data_uri, magnification, read_gallery
from hedgerow.report.runs import read_metrics, scalar

Make = Callable[..., Path]


def decoded(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0.0 %"),
        (1.0, "100.0 %"),
        (0.5722, "57.2 %"),
        (0.9997, "99.97 %"),
        (0.00002, "0.002 %"),
        (1.04, "104.0 %"),
    ],
)
def test_percent_never_rounds_to_nothing_or_all(share: float, text: str) -> None:
    assert words.percent(share) == text


def test_words() -> None:
    assert words.points(-0.0421) == "\u22124.2 pp"
    assert words.points(0.0) == "\u00b10.0 pp"
    assert words.points(0.012) == "+1.2 pp"
    assert words.short_count(94304) == "94.3k"
    assert words.size(1_234_567) == "1.23 MB"
    assert [words.duration(s) for s in (5.62, 184, 3720)] == ["5.6 s", "3 min 04 s", "1 h 02 min"]
    assert words.printable("a\nb\u202e") == "a\ufffdb\ufffd"
    assert words.shorten("abcdefghij", 5) == "ab\u2026ij"


@pytest.mark.parametrize("background", ["#fdfdfb", "#15181b"])
def test_colours_are_legible_on_both_pages(background: str) -> None:
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    page = luminance(background)
    for colour in PALETTE:
        low, high = sorted((luminance(colour), page))
        assert (high + 0.05) / (low + 0.05) >= 3, colour


def test_metrics_of_a_resumed_and_cut_run(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [("pretrain", 1, 2.0), ("pretrain", 2, 9.0), ("prune", 1, float("nan")), ("pretrain", 2, 1.5)]
    lines = [json.dumps({"phase": p, "epoch": e, "loss": loss}) for p, e, loss in rows]
    path.write_text("\n".join([*lines, '{"phase": "prune", "ep', "[1]"]))
    epochs, unreadable = read_metrics(path)
    assert [(row["phase"], row["epoch"], scalar(row, "loss")) for row in epochs] == [
        ("pretrain", 1, 2.0),
        ("pretrain", 2, 1.5),
        ("prune", 1, None),
    ]
    assert unreadable == 2
    assert read_metrics(tmp_path / "none") == ([], 0)


def test_perturbation_fills_the_range_exactly_at_eps() -> None:
    eps = 8 / 255
    change = np.array([[[[-eps, 0.0, eps]]]], dtype=np.float32)
    half_range, scale = magnification(change, "8/255", "linf")
    assert half_range == pytest.approx(eps)
    assert "\u00d715.9, so that \u00b18/255 fills the whole range" in scale
    assert decoded(data_uri(0.5 + change[0] / (2 * half_range))).tolist() == [[0, 128, 255]]


@pytest.mark.parametrize(("eps", "norm"), [("1/2", "l2"), ("", "linf"), ("0/255", "linf"), ("1/0", "linf")])
def test_perturbation_of_unknown_size_is_scaled_by_what_is_seen(eps: str, norm: str) -> None:
    change = np.array([[[[0.25, -0.1]]]], dtype=np.float32)
    half_range, scale = magnification(change, eps, norm)
    assert half_range == 0.25
    assert "the largest change seen fills" in scale
    assert magnification(np.zeros((0, 1, 2, 2), np.float32), eps, norm)[0] == 1.0


@pytest.mark.parametrize(("channels", "shape"), [(1, (32, 32)), (3, (32, 32, 3))])
def test_gallery_shows_the_recorded_pixels(tmp_path: Path, channels: int, shape: tuple[int, ...]) -> None:
    write_gallery(tmp_path / "g.safetensors", channels=channels)
    gallery = read_gallery(tmp_path / "g.safetensors", CLASSES[:5])
    assert gallery is not None
    assert (len(gallery.pictures), gallery.recorded, gallery.pixelated) == (14, 14, True)
    clean = read_tensors(tmp_path / "g.safetensors")[0]["clean"][0].permute(1, 2, 0).numpy()
    shown = decoded(gallery.pictures[0].clean)
    assert shown.shape == shape
    assert np.array_equal(shown.reshape(clean.shape), clean)
    picture = gallery.pictures[4]
    assert (picture.truth, picture.after, picture.right_before, picture.right_after) == (
        "deer",
        "class 6",
        True,
        False,
    )
    assert "PGD-50, 5 restarts, linf 8/255" in gallery.attack


def test_broken_gallery_is_named(tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    assert read_gallery(path, CLASSES) is None
    write_gallery(path)
    tensors, metadata = read_tensors(path)
    write_tensors(path, {**tensors, "labels": torch.zeros(3, dtype=torch.int64)}, metadata)
    with pytest.raises(CheckpointError, match="do not belong together"):
        read_gallery(path, CLASSES)
    write_tensors(path, {"clean": tensors["clean"]}, metadata)
    with pytest.raises(CheckpointError, match="'adversarial' is missing"):
        read_gallery(path, CLASSES)


def test_tables_hold_the_exact_numbers(three_runs: list[Path], tmp_path: Path) -> None:
    table, markdown, _ = write_tables(three_runs, tmp_path / "out")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["run"] for row in rows] == ["dense", "hydra-97", "magnitude-97"]
    hydra = rows[1]
    assert float(hydra["autoattack_accuracy"]) == 112 / 360
    assert float(hydra["autoattack_minus_dense"]) == 112 / 360 - 128 / 360
    assert hydra["autoattack_how"] == "AutoAttack standard, eps 8/255 linf"
    assert float(hydra["sparsity_counted"]) == 1 - 2976 / 94304
    assert hydra["bytes_stored"] == "17856"
    text = markdown.read_text()
    assert "| hydra-97 | hydra | 97.0 % | 96.8 % |" in text
    assert "57.2 % [52.1, 62.2]" in text
    columns = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(columns) == 1


def test_tables_leave_unknown_numbers_empty_and_escape_names(make_run: Make, tmp_path: Path) -> None:
    runs = [make_run("a|b<i>\n,c", scored=None), make_run(metrics=False)]
    table, markdown, _ = write_tables(runs, tmp_path)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert rows[0]["clean_accuracy"] == ""
    assert rows[1]["clean_minus_dense"] == ""
    assert "a\\|b&lt;i&gt;\ufffd,c" in markdown.read_text()
    with pytest.raises(HedgerowError, match="no runs given"):
        write_tables([], tmp_path)
