"""Accuracy under common corruptions: counts against one image at a time, kept files, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hedgerow.corruptions import ABSENT, CORRUPTIONS, corrupt
from hedgerow.errors import DataError
from hedgerow.evaluation import Protocol, add_corruptions, chosen_corruptions, shifted
from hedgerow.registry import UnknownNameError
from hedgerow.report.sections import corruption_table
from hedgerow.result import Corruptions, Evaluation

N = 30
NAMES = ["impulse-noise", "motion-blur", "jpeg"]
POSITIONS = list(range(100, 100 + 3 * N, 3))


def added(
    trained: Any, names: list[str], folder: Path | None = None, batch: int = 7, seed: int = 2
) -> Corruptions:
    record = Evaluation(split="test", threat="linf 1/8", examples=POSITIONS, measures={}, verdicts=[])
    protocol = Protocol(batch_size=batch, seed=seed)
    add_corruptions(
        record, trained.model, trained.x[:N], trained.y[:N], names=names, protocol=protocol, folder=folder
    )
    assert record.corruptions is not None
    return record.corruptions


def test_the_counts_are_those_of_one_image_at_a_time(trained: Any) -> None:
    found = added(trained, NAMES)
    assert [one.name for one in found.found] == NAMES
    for one in found.found:
        for level in one.levels:
            right = 0
            for position, x, y in zip(POSITIONS, trained.x, trained.y, strict=False):
                image = corrupt(x[None], one.name, level.severity, seed=2, positions=[position])
                right += int(trained.predictions(image)[0] == y)
            assert (level.correct, level.n, level.seed) == (right, N, 2)
            assert f"{one.name}, severity {level.severity} (1903.12261)" in level.how
            assert level.low <= level.accuracy <= level.high
    means = [sum(level.correct for level in one.levels) / (5 * N) for one in found.found]
    assert [one.accuracy for one in found.found] == pytest.approx(means)
    assert found.accuracy == pytest.approx(sum(means) / 3)
    assert found.families == pytest.approx(dict(zip(("noise", "blur", "digital"), means, strict=True)))
    assert found == added(trained, NAMES, batch=30)
    assert found != added(trained, NAMES, seed=3)


def test_what_is_kept_is_not_computed_again_and_nothing_stale_is_believed(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counting(*given: Any, **options: Any) -> Any:
        calls.append(given[1])
        return corrupt(*given, **options)

    monkeypatch.setattr(shifted, "corrupt", counting)
    first = added(trained, NAMES, tmp_path)
    computed = len(calls)
    assert added(trained, NAMES, tmp_path) == first
    assert len(calls) == computed
    file = tmp_path / "corruption-jpeg.safetensors"
    file.write_bytes(file.read_bytes()[:40])
    assert added(trained, NAMES, tmp_path) == first
    assert set(calls[computed:]) == {"jpeg"}
    computed = len(calls)
    assert added(trained, ["jpeg"], tmp_path, seed=3).found[0].levels[0].seed == 3
    assert len(calls) > computed


def test_all_leaves_out_what_grey_images_do_not_take_and_says_so() -> None:
    names, left_out = chosen_corruptions(["all"], channels=1)
    assert set(names) == set(CORRUPTIONS) - {"saturate"}
    assert set(left_out) == {"saturate", *ABSENT}
    names, left_out = chosen_corruptions(["all"], channels=3)
    assert set(names) == set(CORRUPTIONS)
    assert left_out == ABSENT
    assert chosen_corruptions(["jpeg", "contrast", "jpeg"], channels=3) == (["jpeg", "contrast"], {})


def test_what_cannot_be_computed_is_refused_by_name() -> None:
    with pytest.raises(
        DataError, match="corruption 'saturate' is for images of 3 channels, and these have 1; leave"
    ):
        chosen_corruptions(["saturate"], channels=1)
    with pytest.raises(UnknownNameError, match="unknown corruption 'snow'"):
        chosen_corruptions(["snow"], channels=3)
    with pytest.raises(DataError, match=r"'math:pi' is a float; give a hedgerow\.corruptions\.Corruption"):
        chosen_corruptions(["math:pi"], channels=3)


def test_the_table_shows_means_and_what_is_left_out(trained: Any) -> None:
    class Run:
        label = "mine"
        result = type("R", (), {"evaluation": None})()

        @staticmethod
        def measure(_: str) -> None:
            return None

    assert corruption_table([Run()]) is None  # type: ignore[list-item]
    record = Evaluation(split="test", threat="linf 1/8", examples=POSITIONS, measures={}, verdicts=[])
    record.corruptions = added(trained, NAMES).model_copy(update={"left_out": {"fog": "why"}})
    Run.result.evaluation = record
    table = corruption_table([Run()])  # type: ignore[list-item]
    assert table is not None
    assert table.headings == ["Run", "Clean", "Mean", "All noise", "All blur", "All digital", *NAMES]
    values = [cell.value for cell in table.rows[0][2:]]
    assert values[0] == record.corruptions.accuracy
    assert values[4:] == [one.accuracy for one in record.corruptions.found]
    assert "mine: without fog" in table.notes
    assert "no attack among it" in table.caption
