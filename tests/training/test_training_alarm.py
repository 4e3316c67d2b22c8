"""The alarm for robust accuracy that collapses: its criterion, and who hears of it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import phase_cases
import pytest
import torch
from phase_cases import Recorder, Stop
from rich.console import Console
from torch import Tensor, nn

from hedgerow.data import Split
from hedgerow.objectives import Natural
from hedgerow.training import Display, MetricsFile, Outcome, Setting, read_metrics, train
from hedgerow.training.alarm import describe_collapse, has_collapsed

# attacked accuracy in training, robust accuracy now, the best before
COLLAPSED = {
    "the textbook case": (0.95, 0.00, 0.45),
    "half is gone": (0.45, 0.20, 0.45),
    "exactly half, at exactly the distance": (0.20, 0.10, 0.20),
    "just nearer to the best": (0.2851, 0.17, 0.40),
    "from the first epoch on": (0.85, 0.02, None),
    "never there, at the edge": (0.50, 0.05, None),
    "never there, with a poor best": (0.90, 0.05, 0.09),
}
SOUND = {
    "an ordinary epoch": (0.48, 0.44, 0.45),
    "the first epoch": (0.30, 0.28, None),
    "robust overfitting": (0.90, 0.40, 0.49),
    "a fall to more than half": (0.60, 0.23, 0.45),
    "a small fall near chance": (0.15, 0.06, 0.15),
    "training broke down and took both": (0.10, 0.10, 0.45),
    "just nearer to the fallen": (0.2849, 0.17, 0.40),
    "nothing learnt yet": (0.12, 0.01, None),
    "a hard start": (0.49, 0.00, None),
}


@pytest.mark.parametrize("case", COLLAPSED)
def test_what_is_a_collapse(case: str) -> None:
    assert has_collapsed(*COLLAPSED[case])


@pytest.mark.parametrize("case", SOUND)
def test_what_is_none(case: str) -> None:
    assert not has_collapsed(*SOUND[case])


def test_a_better_robust_accuracy_never_raises_it() -> None:
    steps = [i / 40 for i in range(41)]
    for attacked in steps:
        for best in [None, *steps]:
            verdicts = [has_collapsed(attacked, robust, best) for robust in steps]
            assert verdicts == sorted(verdicts, reverse=True)
            assert not any(verdicts[21:]), "who is robust on more than half has not collapsed"


def test_the_text_says_what_and_what_to_do() -> None:
    text = describe_collapse(0.953, 0.004, 0.45)
    assert "PGD leaves 0.4% on validation (best before: 45.0%), while 95.3% of the objective's own" in text
    assert "Stop and try a lower lr" in text
    assert "\n" not in text
    assert "best before" not in describe_collapse(0.9, 0.0, None)


class Claims:
    """Cross-entropy that reports a given accuracy on examples of its own."""

    def __init__(self, attacked: float | None) -> None:
        self.attacked = attacked

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: Any = None) -> Any:
        loss, scalars = Natural()(model, x, y)
        own = {} if self.attacked is None else {"attacked_accuracy": torch.tensor(self.attacked)}
        return loss, {**scalars, **own}


def scripted(robust: list[float]) -> Callable[[nn.Module], dict[str, float]]:
    left = iter(robust)
    return lambda model: {"clean": 1.0, "robust": next(left)}


def run(
    split: Split, robust: list[float], *listeners: Any, folder: Path | None = None, attacked: float | None = 0.8
) -> Outcome:
    setting = Setting(folder=folder, validate=scripted(robust), listeners=listeners)
    return train(phase_cases.model(), split, Claims(attacked), plan=phase_cases.plan(epochs=4), setting=setting)


def test_it_stands_in_the_metrics_of_every_such_epoch_and_the_first_in_the_outcome(
    split: Split, tmp_path: Path
) -> None:
    outcome = run(split, [0.4, 0.45, 0.02, 0.01], MetricsFile(tmp_path / "metrics.jsonl"))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert ["alarm" in row for row in rows] == [False, False, True, True]
    assert "2.0% on validation (best before: 45.0%), while 80.0%" in rows[2]["alarm"]
    assert outcome.alarm_epoch == 3
    assert outcome.selected_epoch == 2


@pytest.mark.parametrize("attacked", [None, 0.05])
def test_without_examples_of_its_own_or_with_all_broken_there_is_none(
    split: Split, attacked: float | None
) -> None:
    recorder = Recorder()
    assert run(split, [0.4, 0.45, 0.02, 0.01], recorder, attacked=attacked).alarm_epoch is None
    assert not any("alarm" in row for row in recorder.epochs)


def test_an_epoch_is_compared_with_those_before_it(split: Split) -> None:
    assert run(split, [0.1, 0.2, 0.4, 0.5]).alarm_epoch is None


@pytest.mark.parametrize("stop", [(2, 1), (3, 1)])
def test_it_survives_an_interruption(split: Split, tmp_path: Path, stop: tuple[int, int]) -> None:
    scores = [0.4, 0.45, 0.02, 0.41]
    with pytest.raises(Stop):
        run(split, scores, Recorder(stop=stop), folder=tmp_path)
    assert run(split, scores[stop[0] :], folder=tmp_path).alarm_epoch == 3


@pytest.mark.parametrize("terminal", [False, True])
def test_the_display_says_it_once_a_phase(split: Split, terminal: bool) -> None:
    text = io.StringIO()
    display = Display("demo", Console(file=text, force_terminal=terminal, width=400, soft_wrap=True))
    for _ in range(2):
        run(split, [0.4, 0.02, 0.02, 0.02], display)
    lines = [line for line in text.getvalue().splitlines() if "ALARM" in line]
    assert len(lines) == 2
    assert all("ALARM demo train, epoch 2: robust accuracy has collapsed: PGD leaves 2.0%" in x for x in lines)
