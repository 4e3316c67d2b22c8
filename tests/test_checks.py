"""Checks in the record: files of schema 1, the mark of a failed one, and files that are newer than the program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hedgerow.checks import Check
from hedgerow.errors import CheckpointError
from hedgerow.result import SCHEMA, Evaluation, load_result

RESULTS = sorted((Path(__file__).parents[1] / "results").glob("**/result.json"))


def raw(**changes: Any) -> dict[str, Any]:
    return {"split": "test", "threat": "linf 1/8", "examples": [], "measures": {}, "verdicts": [], **changes}


def test_checks_of_schema_1_get_their_numbers() -> None:
    found = Evaluation.model_validate(raw(checks={"a": True, "b": False}, numbers={"b": "3 of 9"}))
    assert found.checks == {"a": Check(outcome="pass"), "b": Check(outcome="fail", number="3 of 9")}
    assert found.suspect == ["b"]


def test_a_failed_check_marks_the_record_and_reads_back() -> None:
    found = Evaluation.model_validate(raw(checks={"a": {"outcome": "warn"}, "b": {"outcome": "pass"}}))
    assert json.loads(found.model_dump_json())["suspect"] == []
    found.checks["b"] = Check(outcome="fail", number="1", how="counted")
    text = found.model_dump_json()
    assert json.loads(text)["suspect"] == ["b"]
    assert Evaluation.model_validate_json(text) == found


@pytest.mark.parametrize("path", RESULTS[:: max(1, len(RESULTS) // 8)], ids=lambda p: p.parent.name)
def test_results_written_before_still_load(path: Path, tmp_path: Path) -> None:
    result = load_result(path)
    assert result.schema_version == SCHEMA
    assert result.evaluation is not None
    assert all(isinstance(check, Check) for check in result.evaluation.checks.values())
    assert load_result(result.save(tmp_path / "result.json")) == result


def test_there_are_results_to_load() -> None:
    assert RESULTS


def test_a_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    values = json.loads(RESULTS[0].read_text(encoding="utf-8"))
    path = tmp_path / "result.json"
    path.write_text(json.dumps({**values, "schema_version": SCHEMA + 1}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"not a result of schema 2 \(schema_version: .*less than or equal"):
        load_result(path)
