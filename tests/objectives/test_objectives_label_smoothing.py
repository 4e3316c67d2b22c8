"""Label smoothing: a share of the label goes to all classes, in the training loss and nowhere else."""

from __future__ import annotations

import math

import pytest
import torch
from objective_table import THREAT, batch, dice, gradients, make, network, takes
from torch import Tensor

from hedgerow.objectives import OBJECTIVES

SHARE = 0.3
with_smoothing = pytest.mark.parametrize("name", [n for n in OBJECTIVES if takes(n, "label_smoothing")])


def smoothed_by_hand(logits: Tensor, y: Tensor) -> Tensor:
    """-(1 - s) log p_y - (s / C) * sum over the classes of log p."""
    total = torch.zeros(())
    for row, label in zip(logits.softmax(1), y.tolist(), strict=True):
        total = total - (1 - SHARE) * row[label].log() - SHARE / len(row) * row.log().sum()
    return total / len(y)


@pytest.mark.parametrize("name", ["natural", "pgd-at", "fast-at"])
def test_it_is_the_formula(name: str) -> None:
    model, other, (x, y) = network(), network(), batch()
    loss, _ = make(name, label_smoothing=SHARE)(model, x, y, dice())
    images = x if name == "natural" else make(name).craft(other, x, y, dice())
    assert loss.item() == pytest.approx(smoothed_by_hand(other(images), y).item(), rel=1e-5)


def test_in_trades_it_is_for_the_clean_term_alone() -> None:
    (x, y), scalars = batch(), []
    for share in (0.0, SHARE):
        loss, found = make("trades", label_smoothing=share)(network(), x, y, dice())
        assert loss.item() == pytest.approx((found["natural"] + 6 * found["robust"]).item())
        scalars.append(found)
    assert torch.equal(scalars[0]["robust"], scalars[1]["robust"])
    assert scalars[1]["natural"].item() == pytest.approx(smoothed_by_hand(network()(x), y).item(), rel=1e-5)


def test_in_the_hybrid_loss_it_is_for_both_terms() -> None:
    model, (x, y) = network(), batch()
    objective = make("hybrid", label_smoothing=SHARE)
    images = objective.craft(network(), x, y, dice())
    _, scalars = objective(model, x, y, dice())
    assert scalars["natural"].item() == pytest.approx(smoothed_by_hand(network()(x), y).item(), rel=1e-5)
    assert scalars["robust"].item() == pytest.approx(smoothed_by_hand(network()(images), y).item(), rel=1e-5)


@with_smoothing
def test_a_share_of_zero_is_the_plain_loss_bit_for_bit(name: str) -> None:
    results = []
    for options in ({}, {"label_smoothing": 0.0}):
        model = network()
        loss, _ = make(name, **options)(model, *batch(), dice())
        results.append([loss, *gradients(model, loss)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("name", ["pgd-at", "fast-at", "hybrid"])
def test_the_attack_goes_for_the_true_label_whatever_the_share(name: str) -> None:
    x, y = batch()
    plain, smooth = (make(name, THREAT, label_smoothing=s).craft(network(), x, y, dice()) for s in (0.0, 0.9))
    assert torch.equal(plain, smooth)


@with_smoothing
@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
def test_a_share_outside_its_range_is_refused(name: str, share: float) -> None:
    with pytest.raises(ValueError, match=r"label_smoothing is .* lies in \[0, 1\)"):
        make(name, label_smoothing=share)
