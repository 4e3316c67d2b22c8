"""A network that was really trained, under PGD and AutoAttack: the numbers must hang together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hedgerow.errors import DataError
from hedgerow.evaluation import Protocol, evaluate, quick_accuracy, wilson
from hedgerow.threat import ThreatModel

QUICK = Protocol(pgd_steps=5, pgd_restarts=1, autoattack=False, batch_size=500, integrity=0)


def test_the_network_is_worth_attacking(attacked) -> None:
    measures = attacked.result.record.measures
    assert measures["clean"].accuracy > 0.7
    assert 0.05 < measures["worst_case"].accuracy < measures["clean"].accuracy


def test_no_example_stands_under_an_attack_that_fell_without_one(attacked, trained) -> None:
    """Verdicts recomputed from the kept images by forwards of our own."""
    y = attacked.y
    clean = trained.predictions(attacked.x) == y
    by = {
        name: clean & (trained.predictions(attacked.kept[f"{name}_images"]) == y) for name in ("pgd", "autoattack")
    }
    worst = clean & by["pgd"] & by["autoattack"]
    for flags in by.values():
        assert (worst <= flags).all()
        assert (flags <= clean).all()
    measures = attacked.result.record.measures
    flags_of = {"clean": clean, **by, "worst_case": worst}
    assert {name: m.correct for name, m in measures.items()} == {k: int(v.sum()) for k, v in flags_of.items()}
    expected = []
    for right, after_pgd, after_autoattack in zip(clean, by["pgd"], by["autoattack"], strict=True):
        if not right:
            expected.append("misclassified")
        elif not after_pgd:
            expected.append("broken by pgd")
        elif not after_autoattack:
            expected.append("broken by autoattack")
        else:
            expected.append("robust")
    assert attacked.result.record.verdicts == expected


def test_autoattack_is_at_least_as_strong_as_pgd(attacked) -> None:
    measures = attacked.result.record.measures
    assert measures["worst_case"].correct <= measures["autoattack"].correct <= measures["pgd"].correct
    assert measures["pgd"].correct < measures["clean"].correct
    checks = attacked.result.record.checks
    assert {"AutoAttack is not weaker than PGD", "a black-box attack is not better than gradients"} <= set(checks)
    assert all(check.passed and check.number and check.how for check in checks.values())
    assert attacked.result.record.suspect == []


def test_measures_agree_with_themselves_and_say_how(attacked) -> None:
    record = attacked.result.record
    assert list(record.measures) == ["clean", "pgd", "autoattack", "worst_case"]
    for name, measure in record.measures.items():
        assert measure.n == 60
        assert measure.accuracy == measure.correct / 60
        assert (measure.low, measure.high) == wilson(measure.correct, 60)
        assert ("linf 1/8" in measure.how) == (name != "clean")
    assert "PGD-10" in record.measures["pgd"].how
    assert "2 random restarts" in record.measures["pgd"].how
    assert "AutoAttack standard" in record.measures["autoattack"].how
    assert record.measures["autoattack"].seconds > record.measures["pgd"].seconds > 0
    assert record.threat == "linf 1/8"
    assert record.examples == list(range(60))


@pytest.mark.parametrize("with_autoattack", [True, False])
def test_the_returned_images_are_the_strongest_found(attacked, trained, with_autoattack: bool) -> None:
    x, y = attacked.x, attacked.y
    by_pgd = evaluate(trained.model, x, y, threat=trained.threat, protocol=QUICK)
    result = attacked.result if with_autoattack else by_pgd
    assert torch.equal(result.clean_predictions, trained.predictions(x))
    assert torch.equal(result.adversarial_predictions, trained.predictions(result.adversarial))
    assert (trained.threat.distance(result.adversarial, x) <= 1 / 8 + 1e-6).all()
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1
    for i, word in enumerate(result.record.verdicts):
        assert (result.adversarial_predictions[i] == y[i]) == (word == "robust")
        assert torch.equal(result.adversarial[i], x[i]) == (word in ("robust", "misclassified"))


@pytest.mark.parametrize("training", [False, True])
def test_model_and_global_randomness_are_as_before(trained, training: bool) -> None:
    model = trained.model.train(training)
    model[1].train(not training)
    modes = [module.training for module in model.modules()]
    values = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    evaluate(model, trained.x[:6], trained.y[:6], threat=trained.threat, protocol=QUICK)
    quick_accuracy(model, trained.x[:6], trained.y[:6], threat=trained.threat)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    for parameter, before in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is before is None or torch.equal(parameter.grad, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("size", [1, 7, 20, 50, 500])
def test_any_batch_size_evaluates_every_image_once(trained, size: int) -> None:
    x, y = trained.x[:20], trained.y[:20]
    told: list[tuple[int, int]] = []
    protocol = Protocol(pgd_steps=2, pgd_restarts=1, autoattack=False, batch_size=size, integrity=0)
    found = evaluate(
        trained.model, x, y, threat=trained.threat, protocol=protocol, progress=lambda *at: told.append(at)
    )
    assert told == [(min(end, 20), 20) for end in range(size, 20 + size, size)]
    assert torch.equal(found.clean_predictions, trained.predictions(x))
    assert len(found.record.verdicts) == found.record.measures["pgd"].n == 20


def test_radius_zero_breaks_nothing(trained) -> None:
    threat = ThreatModel("linf", 0)
    found = evaluate(trained.model, trained.x, trained.y, threat=threat, protocol=QUICK)
    measures = found.record.measures
    assert measures["clean"].correct == measures["pgd"].correct == measures["worst_case"].correct
    assert set(found.record.verdicts) == {"misclassified", "robust"}
    assert torch.equal(found.adversarial, trained.x)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_model_that_is_always_wrong(trained, norm: str) -> None:
    x = trained.x[:9]
    y = (trained.predictions(x) + 1) % 10
    threat = ThreatModel(norm, "1/8")  # type: ignore[arg-type]
    found = evaluate(trained.model, x, y, threat=threat, protocol=Protocol(batch_size=4, integrity=4))
    assert all(m.correct == 0 and m.accuracy == 0 and m.n == 9 for m in found.record.measures.values())
    assert found.record.verdicts == ["misclassified"] * 9
    assert torch.equal(found.adversarial, x)
    assert not any(check.failed for check in found.record.checks.values())
    assert found.record.checks["labels belong to the images"].outcome == "warn"
    assert found.record.checks["gradients are not zero"].number == "none of 4 images is classified correctly"
    assert quick_accuracy(trained.model, x, y, threat=threat) == {"clean": 0.0, "robust": 0.0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x[:0], y[:0]), "no image to evaluate on"),
        (lambda x, y: (x, y + 1), r"labels run from 1 to 10; expected 0 to 9"),
        (lambda x, y: (x, y - 1), "labels run from -1 to"),
        (lambda x, y: (x, y.float()), "expected int64"),
        (lambda x, y: (x, y[:-1]), "expected int64"),
        (lambda x, y: (x * 2, y), "pixels run from 0 to 2"),
        (lambda x, y: ((x * 255).byte(), y), "images are torch.uint8; expected floats"),
    ],
)
def test_bad_input_is_refused(trained, change, words: str) -> None:
    x, y = change(trained.x, trained.y)
    with pytest.raises(DataError, match=words):
        evaluate(trained.model, x, y, threat=trained.threat, protocol=QUICK)


@pytest.mark.parametrize("n", [1, 3, 7, 50, 397])
@pytest.mark.parametrize("eps", ["0", "1/50", "1/8"])
def test_quick_accuracy_is_the_evaluators_clean_accuracy_and_never_above_it(trained, n: int, eps: str) -> None:
    x, y = trained.x[:n], trained.y[:n].clone()
    y[0] = (trained.predictions(x[:1])[0] + 1) % 10
    threat = ThreatModel("linf", eps)
    quick = quick_accuracy(trained.model, x, y, threat=threat, steps=3)
    full = evaluate(trained.model, x, y, threat=threat, protocol=QUICK).record.measures
    assert quick["clean"] == full["clean"].accuracy
    assert quick["robust"] <= quick["clean"]
    if eps == "0":
        assert quick["robust"] == quick["clean"]


def test_quick_accuracy_counts_what_pgd_leaves(trained) -> None:
    x, y = trained.x, trained.y
    previous = 1.0
    for eps in ("1/50", "1/16", "1/8", "1/4"):
        robust = quick_accuracy(trained.model, x, y, threat=ThreatModel("linf", eps))["robust"]
        assert robust < previous
        previous = robust


def test_quick_accuracy_runs_nothing_on_an_empty_batch(trained) -> None:
    class Reshapes(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (
                torch.nn.functional.one_hot(torch.zeros(len(x), dtype=torch.int64), 3)
                + x.view(len(x), -1)[:, :3] * 0
            )

    ones = torch.ones(4, dtype=torch.int64)
    assert quick_accuracy(Reshapes(), trained.x[:4], ones, threat=trained.threat)["robust"] == 0.0
