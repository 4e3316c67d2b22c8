"""`hedgerow certify --method ibp ...` on a tiny run: the record, going on, and the recipe's own radius."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hedgerow.certification import Order, certify_target
from hedgerow.certify import Shard
from hedgerow.cli import main
from hedgerow.errors import RecipeError
from hedgerow.recipe import load_recipe
from hedgerow.result import Certification


def order(**changes: Any) -> Order:
    return Order(**{"method": "crown-ibp", "options": {"eps": "1/200"}, "examples": 12, **changes})


def test_the_record_has_a_flag_for_every_image(finished: Path, tmp_path: Path) -> None:
    found = certify_target(finished, order(), out=tmp_path)
    record = Certification.model_validate_json((tmp_path / "certify.json").read_text())
    assert found.record == record
    assert (record.method, record.norm, record.split) == ("crown-ibp", "linf", "test")
    assert record.settings == {"norm": "linf", "eps": "1/200", "precision": "float64"}
    assert [at.radius for at in record.curve] == [0.0, 1 / 200]
    assert len(record.certificates) == 12
    for each in record.certificates:
        assert each.evidence["proved"] == (each.prediction is not None)
        assert each.radius == (1 / 200 if each.evidence["proved"] else 0)
        assert (each.evidence["margin"] > 0) == each.evidence["proved"]
    proved = sum(each.prediction == each.label for each in record.certificates)
    assert proved == record.curve[1].correct
    assert (tmp_path / "certify.svg").exists()


def test_the_radius_is_the_recipes_unless_given(finished: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(finished, tmp_path / "run"))
    found = certify_target(copied, order(method="ibp", options={}, examples=3))
    recipe = load_recipe(str(copied / "recipe.yaml"))
    assert found.record is not None
    assert found.record.settings["eps"] == str(recipe.threat.eps)
    assert found.folder.name == f"certify-ibp-linf-{float(recipe.threat.eps):.4g}"


def test_it_goes_on_where_it_stopped_with_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    certify_target(finished, order(method="crown"), out=whole)
    done = certify_target(finished, order(method="crown", minutes=1e-9), out=cut)
    assert 0 < done.known < done.total
    certify_target(finished, order(method="crown"), out=cut)
    assert (whole / "certify.json").read_bytes() == (cut / "certify.json").read_bytes()


def test_shards_end_with_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    asked = order(method="crown", examples=20)  # two groups of ten
    certify_target(finished, asked, out=whole)
    for number in (2, 1):
        done = certify_target(finished, replace(asked, shard=Shard(number, 2)), out=parts)
        assert (done.record is not None) is (number == 1)
    for name in ("certify.json", "certify.csv", "certify.svg"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_the_command_prints_both_radii(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [
        "certify",
        str(finished),
        "--method",
        "ibp",
        "--eps",
        "1/500",
        "--examples",
        "5",
        "--out",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", ["hedgerow", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    out = capfd.readouterr().out
    assert "radius 0 " in out
    assert "radius 0.002" in out
    assert "ibp bounds (1810.12715), linf 1/500" in out
    assert len(json.loads((tmp_path / "certify.json").read_text())["certificates"]) == 5


def test_options_of_another_method_are_refused(finished: Path) -> None:
    with pytest.raises(RecipeError, match=r"certify --method ibp.*\n.*sigma"):
        certify_target(finished, order(method="ibp", options={"sigma": 0.25}))
