"""The average of the weights: its arithmetic, who sees it, and that it survives an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import phase_cases
import pytest
import torch
from phase_cases import PHASES, Recorder, Stop, run_phase, same_state
from torch import Tensor, nn

from hedgerow.data import Split
from hedgerow.errors import CheckpointError, ModelError
from hedgerow.objectives import Natural
from hedgerow.pruners import PRUNERS, Dense, FixedMask, Magnitude
from hedgerow.sparsity import Budget
from hedgerow.training import Plan, Setting, train
from hedgerow.training.average import Average, kept_share

AVERAGED = ("pretrain", "finetune")


def how(**changes: Any) -> Plan:
    return phase_cases.plan(**{"ema": 0.8, "select": "last", **changes})


def state_of(net: nn.Module) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in net.state_dict().items()}


def test_the_share_kept_rises_from_a_tenth_to_the_decay() -> None:
    shares = [kept_share(0.9, n) for n in range(200)]
    assert shares[:3] == pytest.approx([1 / 10, 2 / 11, 3 / 12])
    assert shares == sorted(shares)
    assert shares[80:] == [0.9] * 120
    assert {kept_share(0.0, n) for n in range(5)} == {0.0}


def watched(
    split: Split, plan: Plan
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Train; return what was handed over, the states before and after every step, and those validated."""
    states: list[dict[str, Tensor]] = []
    seen: list[dict[str, Tensor]] = []

    class Watching(Dense):
        def attach(self, model: nn.Module, *given: Any, **named: Any) -> None:
            super().attach(model, *given, **named)
            states.append(state_of(model))

        def after_step(self, progress: Any) -> None:
            states.append(state_of(self.model))

    def validate(model: nn.Module) -> dict[str, float]:
        seen.append(state_of(model))
        return {"clean": 1.0, "robust": [0.2, 0.5, 0.3][len(seen) - 1]}

    net = phase_cases.model()
    train(net, split, Natural(), plan=plan, pruner=Watching(), setting=Setting(validate=validate))
    return state_of(net), states, seen


@pytest.mark.parametrize("decay", [0.3, 0.8, 0.999])
def test_it_is_the_recursion_and_validated_in_place_of_the_weights(split: Split, decay: float) -> None:
    final, states, seen = watched(split, how(ema=decay))
    expected = {n: t.double() for n, t in states[0].items()}
    averages = []
    for n, state in enumerate(states[1:]):
        share = min(decay, (1 + n) / (10 + n))
        for name, tensor in state.items():
            if name.endswith("num_batches_tracked"):
                expected[name] = tensor.double()
            else:
                expected[name] = share * expected[name] + (1 - share) * tensor.double()
        averages.append(dict(expected))
    for found, average in zip([*seen, final], [*averages[3::4], averages[-1]], strict=True):
        assert list(found) == list(average)
        for name, tensor in found.items():
            assert torch.allclose(tensor.double(), average[name], atol=1e-6), name
    assert not torch.allclose(final["0.weight"], states[-1]["0.weight"], atol=1e-4)
    assert final["1.num_batches_tracked"] == 12


def test_the_best_average_is_the_one_handed_over(split: Split) -> None:
    final, _, seen = watched(split, how(select="best"))
    assert same_state(final, seen[1])
    assert not same_state(final, seen[2])


@pytest.mark.parametrize("phase", AVERAGED)
def test_training_itself_takes_no_notice(split: Split, phase: str) -> None:
    plain, averaged = (run_phase(split, phase, None, how=how(ema=ema)) for ema in (None, 0.8))
    assert plain.losses == averaged.losses
    assert not same_state(plain.state, averaged.state)


@pytest.mark.parametrize("phase", AVERAGED)
@pytest.mark.parametrize("select", ["best", "last"])
def test_an_average_that_forgets_at_once_is_no_average_bit_for_bit(split: Split, phase: str, select: str) -> None:
    plain, averaged = (run_phase(split, phase, None, how=how(ema=ema, select=select)) for ema in (None, 0.0))
    assert same_state(plain.state, averaged.state)
    assert [m["robust"] for m in plain.metrics] == [m["robust"] for m in averaged.metrics]


def test_removed_weights_are_exactly_zero_in_the_average(split: Split) -> None:
    found = run_phase(split, "finetune", None, how=how(momentum=0.9, weight_decay=0.1))
    for name, mask in found.outcome.masks.items():
        weights = found.state[name]
        assert not mask.all()
        assert weights[~mask].numpy().tobytes() == bytes(4 * int((~mask).sum()))
        assert weights[mask].all()


@pytest.mark.parametrize(
    ("phase", "select", "stop"),
    [
        ("pretrain", "best", (0, 1)),
        ("pretrain", "last", (2, 0)),
        ("finetune", "best", (1, 2)),
        ("finetune", "last", (1, 3)),
    ],
)
def test_it_resumes_bit_for_bit(split: Split, tmp_path: Path, phase: str, select: str, stop: Any) -> None:
    whole = run_phase(split, phase, None, how=how(select=select))
    with pytest.raises(Stop):
        run_phase(split, phase, tmp_path, how=how(select=select), recorder=Recorder(stop=stop), save_every=0.0)
    resumed = run_phase(split, phase, tmp_path, how=how(select=select))
    assert min(resumed.losses) == stop
    assert same_state(resumed.state, whole.state)


@pytest.mark.parametrize(
    ("then", "now", "words"),
    [
        (0.8, 0.9, "averaged with decay 0.8, now it is 0.9"),
        (0.8, None, r"its weights were averaged \(ema\)"),
        (None, 0.8, r"its weights were not averaged \(ema\)"),
    ],
)
def test_a_checkpoint_of_another_average_is_refused(
    split: Split, tmp_path: Path, then: float | None, now: float | None, words: str
) -> None:
    with pytest.raises(Stop):
        run_phase(split, "pretrain", tmp_path, how=how(ema=then), recorder=Recorder(stop=(1, 2)))
    with pytest.raises(CheckpointError, match=rf"pretrain-last\.pt: this checkpoint is of another run.*{words}"):
        run_phase(split, "pretrain", tmp_path, how=how(ema=now))


def test_an_average_of_another_model_is_refused() -> None:
    state = Average(nn.Linear(2, 2), 0.5).state_dict()
    with pytest.raises(ValueError, match="of another model"):
        Average(nn.Linear(2, 2, bias=False), 0.5).load_state_dict(state)


def test_a_glance_leaves_the_model_as_it_was_even_when_it_fails() -> None:
    net = phase_cases.model()
    average = Average(net, 0.5)
    with torch.no_grad():
        net[0].weight.add_(1.0)
    before = state_of(net)

    def look() -> None:
        with average.shown(net):
            assert same_state(state_of(net), average.values)
            raise KeyError

    with pytest.raises(KeyError):
        look()
    assert same_state(state_of(net), before)


@pytest.mark.parametrize("name", [n for n in PRUNERS if PRUNERS[n].learns])
def test_methods_whose_masks_move_refuse_it_before_anything_is_touched(split: Split, name: str) -> None:
    net = phase_cases.model()
    with pytest.raises(ModelError, match=r"moves its masks while it trains.* leave ema out of this phase"):
        train(net, split, Natural(), plan=how(), pruner=PRUNERS[name](), budget=Budget(0.5))
    assert same_state(net.state_dict(), phase_cases.model().state_dict())


def test_where_masks_stand_still_it_is_allowed() -> None:
    assert Dense.averages
    assert FixedMask.averages
    assert set(PHASES) == {*AVERAGED, "prune"}


def test_a_method_that_takes_no_steps_has_nothing_to_average(split: Split) -> None:
    outcome = train(phase_cases.model(), split, Natural(), plan=how(), pruner=Magnitude(), budget=Budget(0.5))
    assert outcome.epochs == 0
