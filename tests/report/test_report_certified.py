"""The table and the plot of certified accuracy."""

from __future__ import annotations

import csv
import io
from xml.etree import ElementTree

import pytest

from hedgerow.certify import Smoothing
from hedgerow.evaluation import summarise_certificates
from hedgerow.report.certified import certified_plot, certified_table
from hedgerow.result import Certification


@pytest.fixture
def record() -> Certification:
    evidence = {i: {"selection": {"1": 10}, "estimation": {"0": 10 * i, "1": 1000 - 10 * i}} for i in range(40)}
    labels = {i: int(i % 5 > 0) for i in range(40)}
    smoothing = Smoothing(sigma=0.25, n=1000, seed=6)
    return summarise_certificates(smoothing, evidence, labels, method="smoothing", network="abc", split="test")


def test_the_table_is_the_curve_with_how_it_was_obtained(record: Certification) -> None:
    rows = list(csv.DictReader(io.StringIO(certified_table(record))))
    assert len(rows) == len(record.curve) > 5
    for row, at in zip(rows, record.curve, strict=True):
        assert float(row["radius"]) == at.radius
        assert (float(row["accuracy"]), float(row["low"]), float(row["high"])) == (at.accuracy, at.low, at.high)
        assert (int(row["correct"]), int(row["n"]), int(row["seed"])) == (at.correct, 40, 6)
        assert "sigma 0.25" in row["how"]


def test_the_plot_is_a_file_of_its_own_that_says_what_it_shows(record: Certification) -> None:
    drawn = certified_plot(record, "certified")
    content = drawn.svg()
    assert content == certified_plot(record, "certified").svg()
    root = ElementTree.fromstring(content)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = root.attrib["aria-label"]
    assert "sigma 0.25, n0 100, n 1,000, alpha 0.001" in words
    assert f"{100 * record.curve[0].accuracy:.1f} % at 0," in words
    text = "".join(root.itertext())
    for shown in ("l2 radius, pixel units; n = 40", "Certified accuracy", "smoothed, without proof"):
        assert shown in text


def test_one_radius_is_enough_for_a_plot(record: Certification) -> None:
    record.curve = record.curve[:1]
    assert "certified" in certified_plot(record, "one").svg()
