"""Further attacks in the evaluation: their measures, the worst case over all, kept batches, the fast protocol."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hedgerow.attacks import ATTACKS
from hedgerow.errors import DataError, HedgerowError
from hedgerow.evaluation import Protocol, evaluate
from hedgerow.threat import ThreatModel

QUICK = {"pgd_steps": 1, "pgd_restarts": 1, "autoattack": False, "batch_size": 12, "integrity": 0}


def test_further_attacks_have_measures_and_the_worst_case_is_over_all(trained, tmp_path: Path) -> None:
    x, y = trained.x[:24], trained.y[:24]
    chosen = {"fast": ATTACKS["fast"](), "short": ATTACKS["apgd-ce"](steps=3)}  # type: ignore[call-arg]
    protocol = Protocol(**QUICK, attacks=chosen)  # type: ignore[arg-type]
    found = evaluate(trained.model, x, y, threat=trained.threat, protocol=protocol, folder=tmp_path)
    record = found.record
    assert list(record.measures) == ["clean", "pgd", "fast", "short", "worst_case"]
    assert record.measures["worst_case"].correct <= min(m.correct for m in record.measures.values())
    assert record.measures["fast"].correct < record.measures["pgd"].correct
    assert record.measures["fast"].seconds > 0
    assert record.measures["fast"].how.startswith("fast protocol of Hedgerow, not AutoAttack: APGD-20")
    assert record.measures["short"].how == "APGD-3 on cross-entropy, 1 random start, linf 1/8"
    assert record.measures["worst_case"].how == "correct under every attack run (PGD, fast, short), linf 1/8"
    assert "broken by fast" in record.verdicts
    assert all(check.passed for check in record.checks.values())
    stands = trained.predictions(found.adversarial) == y
    assert stands.tolist() == [word == "robust" for word in record.verdicts]
    assert (trained.threat.distance(found.adversarial, x) <= 1 / 8 + 1e-6).all()
    again = evaluate(trained.model, x, y, threat=trained.threat, protocol=protocol, folder=tmp_path).record
    assert again == record, "kept batches: the seconds too are those of the attack"
    other = Protocol(**QUICK, attacks={**chosen, "short": ATTACKS["apgd-ce"](steps=1)})  # type: ignore
    fresh = evaluate(trained.model, x, y, threat=trained.threat, protocol=other, folder=tmp_path).record
    assert fresh.measures["short"].how.startswith("APGD-1 ")
    assert fresh.measures["fast"].seconds != record.measures["fast"].seconds


def test_the_fast_protocol_is_about_as_strong_as_autoattack(attacked, trained) -> None:
    protocol = Protocol(**{**QUICK, "batch_size": 60}, attacks={"fast": ATTACKS["fast"]()})  # type: ignore
    found = evaluate(trained.model, attacked.x, attacked.y, threat=trained.threat, protocol=protocol)
    by_fast = found.adversarial_predictions == attacked.y
    by_autoattack = (attacked.kept["clean"] == attacked.y) & (
        attacked.kept["autoattack_predictions"] == attacked.y
    )
    assert (by_fast != by_autoattack).sum() <= 1


@pytest.mark.parametrize("name", ["clean", "pgd", "autoattack", "worst_case"])
def test_the_names_of_other_measures_are_taken(name: str) -> None:
    with pytest.raises(HedgerowError, match=f"called '{name}', which is a measure already"):
        Protocol(attacks={name: ATTACKS["fgsm"]()})


def test_an_attack_of_another_norm_is_refused_before_anything_runs(trained) -> None:
    protocol = Protocol(attacks={"cw": ATTACKS["cw"]()})
    with pytest.raises(DataError, match=r"attack 'cw' is for l2 threats; this one is linf 1/8"):
        evaluate(trained.model, trained.x[:4], trained.y[:4], threat=trained.threat, protocol=protocol)


def test_cw_counts_what_it_finds_in_the_ball(trained) -> None:
    threat = ThreatModel("l2", "1/2")
    attack = ATTACKS["cw"](steps=30, searches=3, constant=1.0, lr=0.05)  # type: ignore[call-arg]
    found = evaluate(
        trained.model,
        trained.x[:20],
        trained.y[:20],
        threat=threat,
        protocol=Protocol(**QUICK, attacks={"cw": attack}),
    )  # type: ignore[arg-type]
    assert found.record.measures["cw"].correct < found.record.measures["clean"].correct
    assert all(check.passed for check in found.record.checks.values())
    assert (threat.distance(found.adversarial, trained.x[:20]) <= 0.5 + 1e-6).all()
    assert torch.equal(found.clean_predictions, trained.predictions(trained.x[:20]))
