"""A phase whose robust accuracy collapsed says so on the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hedgerow.report import write_report
from hedgerow.result import PhaseRecord


@pytest.mark.parametrize(("epoch", "said"), [(7, 1), (None, 0)])
def test_the_alarm_is_beside_the_phase(
    make_run: Callable[..., Path], tmp_path: Path, epoch: int | None, said: int
) -> None:
    phase = PhaseRecord(
        name="pretrain", epochs=9, seconds=1.0, images_per_second=1.0, objective="fast-at", alarm_epoch=epoch
    )
    page = write_report([make_run(phases=[phase])], tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("robust accuracy collapsed in epoch 7") == said
    assert page.count("robust accuracy collapsed") == said
