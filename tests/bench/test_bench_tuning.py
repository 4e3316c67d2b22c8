"""What `hedgerow tune` compares, and which choice it calls the fastest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from test_bench import RECIPE

from hedgerow.bench import tuning
from hedgerow.bench.tuning import Speed, Tuning, tune, tune_lines
from hedgerow.cli import main
from hedgerow.recipe import Recipe, parse_recipe


class Watch:
    """A clock whose times are known: channels-last is faster, and compiled faster still, after a long start."""

    def __init__(self, recipe: Recipe) -> None:
        self.step = 3.0 - recipe.channels_last - 0.5 * recipe.compile
        self.start = 100.0 if recipe.compile else self.step

    def median(self) -> float:
        return self.step

    def first(self) -> float:
        return self.start


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool, bool]]:
    seen: list[tuple[str, bool, bool]] = []

    def fake(recipe: Recipe, phase: str, *_: Any) -> Watch:
        seen.append((phase, recipe.channels_last, recipe.compile))
        return Watch(recipe)

    monkeypatch.setattr(tuning, "timed", fake)
    monkeypatch.setattr(tuning, "native_bf16", lambda device: False)
    return seen


def test_the_fastest_uncompiled_choice_is_tried_compiled_in_turns(
    timed: list[tuple[str, bool, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "why_not", lambda kind: None)
    found = tune(parse_recipe(RECIPE))
    plain = [("prune", False, False), ("prune", True, False)]
    assert timed == [*plain, *plain, *[("prune", True, False), ("prune", True, True)] * 2]
    assert [speed.seconds for speed in found.speeds] == [1.5, 2.0, 3.0]
    assert [speed.start for speed in found.speeds] == [98.5, 0.0, 0.0]
    # 180 images in batches of 20, one epoch: 9 steps do not repay the start.
    assert (found.phase, found.steps, found.remark) == ("prune", 9, None)
    assert found.best.text == "--set channels_last=true --set precision=float32 --set compile=false"


def test_a_long_phase_repays_the_start(
    timed: list[tuple[str, bool, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "why_not", lambda kind: None)
    phases = {**RECIPE["phases"], "prune": {"epochs": 100, "batch_size": 20}}
    found = tune(parse_recipe({**RECIPE, "phases": phases}))
    assert found.best.text.endswith("--set compile=true")
    assert tune_lines(found)[-1] == f"fastest here for 900 steps of prune: {found.best.text}"


@pytest.mark.parametrize(("reason", "sync"), [("no compiler", False), (None, True)])
def test_why_nothing_is_compiled_is_said(
    reason: str | None, sync: bool, timed: list[tuple[str, bool, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "why_not", lambda kind: reason)
    found = tune(parse_recipe({**RECIPE, "sync_bn": sync}))
    assert not any(compiled for _, _, compiled in timed)
    assert found.remark == f"compile: not tried ({reason or 'not with sync_bn: true'})"
    assert found.remark in tune_lines(found)


def test_a_start_counts_once_for_the_whole_phase() -> None:
    fast, slow = Speed("fast", 1.0, 50.0), Speed("slow", 2.0, 0.0)
    assert Tuning("prune", 49, [fast, slow], None).best is slow
    assert Tuning("prune", 51, [fast, slow], None).best is fast


def test_the_command_measures_and_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    monkeypatch.setattr(tuning, "why_not", lambda kind: "no compiler")
    monkeypatch.setattr("sys.argv", ["hedgerow", "tune", str(recipe), "--steps", "1"])
    with pytest.raises(SystemExit):
        main()
    lines = capsys.readouterr().out.splitlines()
    assert sum("ms a step" in line for line in lines) >= 2
    assert "fastest here for 9 steps of prune: --set channels_last=" in lines[-1]
