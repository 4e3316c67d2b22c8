"""Verified accuracy on the images of an evaluation, and the check that nothing verified was broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from planes import Plane
from torch import Tensor, nn

from hedgerow.bounds import METHODS, margin_bounds, verified
from hedgerow.errors import CheckpointError, ModelError
from hedgerow.evaluation import Protocol, add_verified, check_verifiable, evaluate
from hedgerow.evaluation.verified import CHECK
from hedgerow.result import Evaluation
from hedgerow.threat import ThreatModel
from hedgerow.tracing import trace

THREAT = ThreatModel("linf", "1/10")
QUICK = Protocol(pgd_steps=12, pgd_restarts=1, autoattack=False, integrity=0)


def greys(levels: list[float]) -> Tensor:
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()


def evaluated(x: Tensor, y: Tensor, model: nn.Module) -> Evaluation:
    return evaluate(model, x, y, threat=THREAT, protocol=QUICK).record


@pytest.mark.parametrize("method", METHODS)
def test_of_a_plane_the_images_farther_than_eps_are_verified_and_the_others_broken(method: Any) -> None:
    levels = [0.2, 0.39, 0.41, 0.59, 0.61, 0.8, 0.8]
    y = torch.tensor([0, 0, 0, 1, 1, 1, 0])  # the last one is labelled wrongly
    model, x = Plane(), greys(levels)
    record = evaluated(x, y, model)
    add_verified(record, model, x, y, method=method, threat=THREAT)
    assert record.verified == [True, True, False, False, True, True, False]
    assert [v == "robust" for v in record.verdicts] == record.verified, "an exact bound leaves no gap"
    found = record.measures["verified"]
    assert (found.correct, found.n) == (4, 7)
    assert f"{method} bounds" in found.how
    assert "linf 1/10" in found.how
    assert record.checks[CHECK].passed
    assert record.checks[CHECK].number == "0 of 7 examples"


def test_of_a_trained_network_it_is_what_bounds_say_and_never_above_the_worst_case(trained: Any) -> None:
    x, y, threat = trained.x[:40], trained.y[:40], ThreatModel("linf", "1/20")
    record = evaluate(trained.model, x, y, threat=threat, protocol=QUICK).record
    add_verified(record, trained.model, x, y, method="crown-ibp", threat=threat)
    margins = margin_bounds(trace(trained.model, x), trained.model, x, y, threat, dtype=torch.float64)
    assert record.verified == verified(margins, y).tolist()
    assert 0 < record.measures["verified"].correct < record.measures["worst_case"].correct
    assert record.checks[CHECK].passed


def test_an_example_that_is_both_verified_and_broken_is_named() -> None:
    y = torch.tensor([0, 0, 1, 1])
    model, x = Plane(), greys([0.1, 0.2, 0.8, 0.9])
    record = evaluated(x, y, model)
    assert set(record.verdicts) == {"robust"}
    record.examples = [11, 5, 8, 2]
    record.verdicts[1], record.verdicts[3] = "broken by pgd", "misclassified"
    add_verified(record, model, x, y, method="ibp", threat=THREAT)
    assert record.checks[CHECK].failed
    assert record.suspect == [CHECK]
    assert record.checks[CHECK].number == "2 of 4 examples: 5, 2"


def test_evidence_is_kept_by_network_and_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    y = torch.tensor([0, 1])
    model, x = Plane(), greys([0.1, 0.9])
    for method in ("ibp", "crown"):
        add_verified(evaluated(x, y, model), model, x, y, method=method, threat=THREAT, folder=tmp_path)  # type: ignore[arg-type]
    assert len(list(tmp_path.iterdir())) == 2
    again = evaluated(x, y, model)
    monkeypatch.setattr("hedgerow.certify.bounds.margin_bounds", None)
    add_verified(again, model, x, y, method="ibp", threat=THREAT, folder=tmp_path)
    assert again.verified == [True, True]
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="another image at position 0"):
        add_verified(evaluated(x, y, model), model, 1 - x, 1 - y, method="ibp", threat=THREAT, folder=tmp_path)
    with torch.no_grad():
        model.line.bias[1] = -0.9
    moved = evaluated(x, y, model)
    add_verified(moved, model, x, y, method="ibp", threat=THREAT, folder=tmp_path)
    assert moved.verified == [True, False], "another network has other evidence"


def test_a_network_without_bounds_is_refused_beforehand_with_its_module() -> None:
    x = greys([0.1, 0.9])
    check_verifiable(Plane(), x, method="crown", threat=THREAT)
    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(4, 4), nn.GELU()), nn.Linear(4, 2))
    with pytest.raises(ModelError, match=r"gelu in '1\.1': no bounds are known for it"):
        check_verifiable(model, x, method="crown", threat=THREAT)
