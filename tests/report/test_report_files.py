"""One table in three forms, whatever is in its cells; every plot and table as files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from report_folders import CLASSES, LAYERS, certification, full_result, write_run

from hedgerow.errors import CheckpointError
from hedgerow.report import FILES, write_report
from hedgerow.report.canvas import PALETTE, ink_on
from hedgerow.report.runs import labels_of, read_runs, reference_for
from hedgerow.report.table import Cell, Table, file_name, latex_text
from hedgerow.report.words import radius

Make = Callable[..., Path]
ODD = "50 % of a_b & {c} ~ 1^2 \\ #$ \u00d7\u2212 | <i>"
SPECIAL = re.compile(r"(?<!\\)[&%$#_{}]")


def table() -> Table:
    rows = [
        [Cell("first"), Cell("93.8 %", "by counting", "\u22121 pp", value=0.9375), Cell("7", value=7)],
        [Cell(ODD), Cell("not run", value=""), Cell("x", suspect=True)],
    ]
    return Table("odd/name", "A caption, 100 % odd", ["Name", "Share", "Count"], rows, notes=[ODD])


def test_csv_has_the_values_and_not_how_they_are_shown() -> None:
    rows = list(csv.reader(io.StringIO(table().csv())))
    assert rows == [["Name", "Share", "Count"], ["first", "0.9375", "7"], [ODD, "", "x"]]


def test_markdown_has_as_many_columns_in_every_row() -> None:
    lines = table().markdown().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}
    assert rows[1] == "| --- | ---: | ---: |"
    assert rows[2] == "| first | 93.8 % (\u22121 pp) | 7 |"
    assert "&lt;i&gt;" in rows[3]
    assert "x \u26a0" in rows[3]
    assert lines[-1].startswith("- 50 %")


def test_latex_escapes_what_it_would_read_as_commands() -> None:
    text = table().latex()
    body = text[text.index(r"\hline") : text.index(r"\end{tabular}")]
    rows = [line.removesuffix(r" \\") for line in body.splitlines() if line.endswith(r" \\")]
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [2, 2, 2]
    assert rows[1] == r"first & 93.8 \% ($-$1 pp) & 7"
    for part in rows[2].split(" & "):
        plain = part.replace("$-$", "").replace(r"$\times$", "")
        for command in (r"\textasciitilde{}", r"\textasciicircum{}", r"\textbackslash{}"):
            plain = plain.replace(command, "")
        assert not SPECIAL.search(plain), part
    assert r"\begin{tabular}{lrr}" in text
    assert latex_text("a\nb") == "a?b"


@pytest.mark.parametrize(
    ("text", "name"), [("a/../b c", "a-..-b-c"), ("..", "unnamed"), ("layers-run-1", "layers-run-1")]
)
def test_a_file_name_stays_in_its_folder(text: str, name: str) -> None:
    assert file_name(text) == name


@pytest.fixture
def full(tmp_path: Path) -> list[Path]:
    runs = [write_run(tmp_path / n, full_result(n, sparsity=s)) for n, s in (("dense", 0.0), ("hydra-97", 0.97))]
    (runs[1] / "certify-smoothing-0.25").mkdir()
    (runs[1] / "certify-smoothing-0.25" / "certify.json").write_text(certification().model_dump_json())
    return runs


def test_every_plot_and_table_is_written_and_the_page_is_the_same(full: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / FILES
    page = write_report(full, tmp_path / "page.html", files=folder).read_text(encoding="utf-8")
    assert page == write_report(full, tmp_path / "other.html").read_text(encoding="utf-8")
    plots = {p.name for p in (folder / "plots").iterdir()}
    names = [
        *("density-autoattack", "density-clean", "curve-1", "verdicts", "certified-run-2-1", "layers-run-2"),
        *("sensitivity-run-1", "sensitivity-run-2", "training-run-1", "training-run-2"),
    ]
    assert plots == {f"{name}.{kind}" for name in names for kind in ("svg", "png")}
    for name in names:
        root = ElementTree.fromstring((folder / "plots" / f"{name}.svg").read_text(encoding="utf-8"))
        image = Image.open(folder / "plots" / f"{name}.png")
        assert image.info["Description"] == root.attrib["aria-label"]
        assert image.width == 1000
        assert image.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
    tables = {p.name for p in (folder / "tables").iterdir()}
    names = [
        *("curve", "verdicts", "checks", "phases", "sizes", "certified-run-2-1", "layers-run-2"),
        *("sensitivity-run-1", "sensitivity-run-2", "cost-run-1-1", "cost-run-2-1"),
    ]
    assert tables == {f"{name}.{kind}" for name in names for kind in ("csv", "md", "tex")}
    curve = list(csv.DictReader((folder / "tables" / "curve.csv").open(encoding="utf-8")))
    assert [row["16/255"] for row in curve] == [str(20 / 360)] * 2
    assert [row["0"] for row in curve] == [str(230 / 360), str(206 / 360)]
    losses = list(csv.DictReader((folder / "tables" / "sensitivity-run-2.csv").open(encoding="utf-8")))
    assert [row["Layer"] for row in losses] == ["the network itself", *LAYERS]
    assert [round(float(row["Change"]), 9) for row in losses] == [0, 0, -0.13, -0.26, -0.39]


def test_the_page_shows_curve_certificates_and_sensitivity(full: list[Path], tmp_path: Path) -> None:
    text = write_report(full, tmp_path / "page.html").read_text(encoding="utf-8")
    for said in (
        "Accuracy under PGD against the linf radius. dense: 52.8 % at 2/255",
        "Certified accuracy against the l2 radius, smoothing, sigma 0.25: 60.0 % at 0, 42.0 % at 0.25",
        "abstained on 4 of 50 images of the test split",
        "Robust accuracy lost by layer of hydra-97. features.0.conv: \u00b10.0 pp, features.3.conv: \u221213.0 pp",
        "50.0 % of one layer&#39;s kept weights of hydra-97 zeroed",
        "94,538",
        "90,000",
        "2 per multiplication with its addition",
        *(f'<option value="{i}">{name}</option>' for i, name in enumerate(CLASSES, start=1)),
    ):
        assert said in text, said


def test_a_broken_certification_is_named(full: list[Path], tmp_path: Path) -> None:
    broken = full[1] / "certify-smoothing-0.25" / "certify.json"
    broken.write_text(broken.read_text()[:-40])
    with pytest.raises(CheckpointError, match=r"certify-smoothing-0\.25/certify\.json: not a certification"):
        write_report(full, tmp_path / "page.html")


def test_runs_of_one_name_are_told_apart_by_seed_where_that_is_enough(make_run: Make) -> None:
    folders = [make_run(recipe={"seed": seed}) for seed in (0, 1)]
    assert [run.label for run in read_runs(folders)] == ["hydra-97, seed 0", "hydra-97, seed 1"]
    results = [run.result for run in read_runs([*folders, folders[0]])]
    assert labels_of(results) == ["hydra-97 #1", "hydra-97 #2", "hydra-97 #3"]
    assert labels_of(results[:1]) == ["hydra-97"]


def test_a_run_is_compared_with_the_dense_network_of_its_own_seed(make_run: Make) -> None:
    folders = [
        make_run(n, sparsity=s, recipe={"seed": k}) for n, s in (("dense", 0.0), ("x", 0.9)) for k in (0, 1)
    ]
    first, second, of_first, of_second = read_runs(folders)
    runs = [first, second, of_first, of_second]
    assert [reference_for(run, runs) for run in runs] == [first, second, first, second]
    assert reference_for(of_second, [first, of_second]) is first
    assert reference_for(of_second, [of_second]) is None


def test_radii_are_told_in_255ths_where_they_are_whole() -> None:
    assert [radius(eps) for eps in ("1/51", "8/255", "1", "1/10", "1/2")] == [
        "5/255",
        "8/255",
        "255/255",
        "1/10",
        "1/2",
    ]


@pytest.mark.parametrize("colour", [*PALETTE, "#000000", "#ffffff", "#777777", "#767676"])
def test_words_on_any_colour_have_enough_contrast(colour: str) -> None:
    def luminance(text: str) -> float:
        shares = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(colour), luminance(ink_on(colour))))
    assert (high + 0.05) / (low + 0.05) >= 4.5
