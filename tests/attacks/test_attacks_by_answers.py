"""Attacks that need a model's answers alone: which say so, and that they ask for nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hedgerow.attacks import ATTACKS, Scene, by_answers
from hedgerow.threat import ThreatModel


class NoGradients(nn.Module):
    """Whether a pixel in the corner is bright; counts its questions, and refuses those that want a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        assert not x.requires_grad
        self.asked += 1
        bright = x[:, 0, 0, 0] * 10
        return torch.stack([bright, 5 - bright], dim=1)


def test_square_alone_says_that_answers_are_enough() -> None:
    assert [name for name in ATTACKS if by_answers(ATTACKS[name])] == ["square"]


def test_square_asks_as_often_as_it_is_told_and_never_for_a_gradient() -> None:
    x, y = torch.full((3, 1, 4, 4), 0.9), torch.zeros(3, dtype=torch.int64)
    scene = Scene(threat=ThreatModel("linf", "1/10"), num_classes=2)
    counts = []
    for queries in (20, 60):
        model = NoGradients()
        found = ATTACKS["square"](queries=queries)(model, x, y, scene)  # type: ignore[call-arg]
        assert found.shape == x.shape
        counts.append(model.asked)
    assert counts[1] - counts[0] == 40
    assert counts[0] < 40  # the start, and a look at what it is


def test_square_tells_its_settings() -> None:
    scene = Scene(threat=ThreatModel(), num_classes=10)
    few, published = ATTACKS["square"](queries=7), ATTACKS["square"]()  # type: ignore[call-arg]
    assert few.describe(scene).startswith("Square, 7 queries (pyautoattack ")
    assert published.describe(scene).startswith("Square, 5000 queries (pyautoattack ")
    assert (repr(few), repr(published)) == ("Square(queries=7)", "Square()")
    with pytest.raises(ValueError, match="queries is 0"):
        ATTACKS["square"](queries=0)  # type: ignore[call-arg]
