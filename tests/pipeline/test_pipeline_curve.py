"""`evaluation.curve` and `evaluation.sensitivity`: in the record, on the page, and as files."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

import pytest
import run_cases

from hedgerow.cli import main
from hedgerow.errors import RecipeError
from hedgerow.evaluation.curve import CHECK
from hedgerow.reevaluate import evaluate_target
from hedgerow.result import load_result

ASKED = {"evaluation.curve": ["1/50", "1/4"], "evaluation.sensitivity": 0.5, "evaluation.sensitivity_examples": 20}


@pytest.fixture(scope="module")
def curved(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run, evaluated again at further radii and layer by layer."""
    copied = Path(shutil.copytree(finished, tmp_path_factory.mktemp("curved") / "run"))
    evaluate_target(copied, None, ASKED, None)
    return copied


def test_the_record_has_the_curve_and_the_layers(finished: Path, curved: Path) -> None:
    before, result = load_result(finished), load_result(curved)
    assert before.sensitivity is None
    assert before.evaluation is not None
    assert before.evaluation.curve == []
    assert result.evaluation is not None
    assert result.evaluation.measures["pgd"].correct == before.evaluation.measures["pgd"].correct
    curve = result.evaluation.curve
    assert [at.eps for at in curve] == ["1/50", "1/10", "1/4"]
    counts = [result.evaluation.measures["clean"].correct, *(at.correct for at in curve)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < counts[0]
    assert CHECK in result.evaluation.checks
    found = result.sensitivity
    assert found is not None
    assert (found.split, found.share, found.whole.n) == ("validation", 0.5, 20)
    kept = {layer.name: layer.kept for layer in result.sparsity.layers}
    assert {one.layer: one.removed for one in found.layers} == {name: round(k / 2) for name, k in kept.items()}


def test_the_report_command_writes_page_and_files(
    curved: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hedgerow", "report", str(curved)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    out = capfd.readouterr().out
    assert out.splitlines() == [f"page: {curved / 'report.html'}", f"files: {curved / 'report-files'}"]
    page = (curved / "report.html").read_text(encoding="utf-8")
    assert "Accuracy under PGD against the linf radius" in page
    assert "What robustness hangs on" in page
    rows = list(csv.DictReader((curved / "report-files" / "tables" / "curve.csv").open(encoding="utf-8")))
    assert [float(rows[0][eps]) for eps in ("1/50", "1/10", "1/4")] == [
        at.accuracy
        for at in load_result(curved).evaluation.curve  # type: ignore[union-attr]
    ]
    assert (curved / "report-files" / "plots" / "curve-1.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("curve", [0], r"evaluation.curve.0 = 0: a radius of 0 attacks nothing; `clean` is that accuracy"),
        (
            "curve",
            ["1/10", 8],
            r"evaluation.curve.1 = 8: eps 8 is above 1 and pixels run from 0 to 1; did you mean",
        ),
        ("curve", ["-1/10"], r"evaluation.curve.0 = '-1/10': eps -1/10 is negative"),
        ("curve", ["far"], r"evaluation.curve.0 = 'far': 'far' is not a number"),
        ("sensitivity", 0, r"evaluation.sensitivity = 0: "),
        ("sensitivity", 1.5, r"evaluation.sensitivity = 1.5: "),
        ("sensitivity_examples", 0, r"evaluation.sensitivity_examples = 0: "),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(key: str, value: object, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        run_cases.recipe(**{f"evaluation__{key}": value})
