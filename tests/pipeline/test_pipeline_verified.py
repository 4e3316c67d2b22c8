"""`evaluation.verify`: verified accuracy in the record, the page, the tables and the terminal."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

import pytest
import run_cases

from hedgerow.checks import Check
from hedgerow.cli import main
from hedgerow.compare import write_summary
from hedgerow.errors import ModelError, RecipeError
from hedgerow.evaluation.verified import CHECK
from hedgerow.grid import run
from hedgerow.reevaluate import evaluate_target
from hedgerow.result import load_result


@pytest.fixture(scope="module")
def verified(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run, evaluated again with bounds, at a radius at which some images are proved."""
    copied = Path(shutil.copytree(finished, tmp_path_factory.mktemp("verified") / "run"))
    evaluate_target(copied, None, {"evaluation.verify": "crown-ibp", "threat.eps": "1/200"}, None)
    return copied


def test_the_record_has_verified_accuracy_on_the_attacked_images(finished: Path, verified: Path) -> None:
    record = load_result(verified).evaluation
    before = load_result(finished).evaluation
    assert record is not None
    assert before is not None
    assert record.examples == before.examples
    assert before.verified is None
    assert "verified" not in before.measures
    assert record.verified is not None
    found = record.measures["verified"]
    assert (found.correct, found.n) == (sum(record.verified), len(record.examples))
    assert 0 < found.correct <= record.measures["worst_case"].correct
    assert found.how.startswith("crown-ibp bounds (1906.06316), linf 1/200")
    assert record.checks[CHECK].passed
    assert record.checks[CHECK].number == f"0 of {found.n} examples"
    assert list((verified / "evaluation").glob("verified-crown-ibp-linf-0.005-*/1-of-1/evidence.jsonl"))


def test_the_page_shows_it_beside_the_empirical_one(verified: Path) -> None:
    page = (verified / "report.html").read_text()
    assert "Verified, by bounds: tiny" in page
    assert ">Verified</th>" in page
    assert CHECK in page
    assert "0 of 20 examples" in page


def test_a_contradiction_is_told_and_marks_the_headline(
    verified: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    copied = Path(shutil.copytree(verified, tmp_path / "run"))
    result = load_result(copied)
    assert result.evaluation is not None
    result.evaluation.checks[CHECK] = Check(outcome="fail", number="1 of 20 examples: 7")
    result.save(copied / "result.json")
    monkeypatch.setattr(sys, "argv", ["hedgerow", "report", str(copied)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    page = (copied / "report.html").read_text()
    assert "headline suspect" in page
    assert f"({CHECK} - 1 of 20 examples: 7)" in page
    monkeypatch.setattr(sys, "argv", ["hedgerow", "run", str(copied / "recipe.yaml"), "--out", str(copied)])
    with pytest.raises(SystemExit):
        main()
    assert f"FAILED: {CHECK} 1 of 20 examples: 7" in capfd.readouterr().out


def test_a_summary_over_seeds_has_it_where_every_run_has_it(
    finished: Path, verified: Path, tmp_path: Path
) -> None:
    with_bounds, without = load_result(verified), load_result(finished)
    write_summary([with_bounds], tmp_path / "all")
    (row,) = csv.DictReader((tmp_path / "all" / "summary.csv").open())
    assert with_bounds.evaluation is not None
    assert float(row["verified_mean"]) == with_bounds.evaluation.measures["verified"].accuracy
    assert "crown-ibp bounds" in (tmp_path / "all" / "summary.md").read_text()
    write_summary([with_bounds, without], tmp_path / "some")
    assert "verified" not in (tmp_path / "some" / "summary.csv").read_text()


def test_a_network_without_bounds_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    recipe = run_cases.recipe(model__name="vit-tiny", model__options={"patch": 4}, evaluation__verify="ibp")
    with pytest.raises(ModelError, match="no bounds for this network"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_an_unknown_method_is_a_problem_of_the_recipe() -> None:
    with pytest.raises(RecipeError, match=r"evaluation\.verify.*'crown-ibp'"):
        run_cases.recipe(evaluation__verify="lirpa")
