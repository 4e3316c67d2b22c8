"""A compiled network trains as it does uncompiled, up to rounding; where it cannot be compiled, this is said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from phase_cases import PHASES, THREAT, Recorder, model, plan
from torch import Tensor, nn

from hedgerow.data import Split
from hedgerow.errors import MissingPackageError, ModelError
from hedgerow.objectives import OBJECTIVES
from hedgerow.sparsity import Budget
from hedgerow.training import Setting, compiling, train
from hedgerow.training.compiling import computed_by, why_not

slow = pytest.mark.slow


@pytest.fixture
def compiler() -> None:
    if reason := why_not("cpu"):
        pytest.skip(f"nothing compiles here: {reason}")


def losses(split: Split, phase: str, objective: str, options: dict[str, Any], compile_: bool) -> list[float]:
    net, recorder = model(), Recorder()
    train(
        net,
        split,
        OBJECTIVES[objective](THREAT, **options),
        plan=plan(epochs=1, augment=()),
        pruner=PHASES[phase](net),
        budget=Budget(0.7),
        setting=Setting(seed=3, accelerator="cpu", compile=compile_, listeners=(recorder,)),
    )
    return list(recorder.losses.values())


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("phase", "objective", "options"),
    [
        ("finetune", "pgd-at", {"steps": 2}),
        pytest.param("prune", "trades", {"steps": 2}, marks=slow),
        pytest.param("pretrain", "pgd-at", {"steps": 1, "awp": 0.01}, marks=slow),
        pytest.param("pretrain", "trades", {"steps": 1, "craft_mode": "train"}, marks=slow),
    ],
)
def test_the_losses_are_those_of_the_network_as_it_stands(
    split: Split, phase: str, objective: str, options: dict[str, Any]
) -> None:
    counts = torch._dynamo.utils.counters["stats"]
    expected = losses(split, phase, objective, options, compile_=False)
    before = counts["unique_graphs"]
    found = losses(split, phase, objective, options, compile_=True)
    programs = counts["unique_graphs"] - before
    assert 2 <= programs <= 6, "crafting and training are programs; a mask or a step is no new one"
    assert found == pytest.approx(expected, rel=1e-4)
    assert found != expected, "nothing was compiled"


class Refusing(nn.Module):
    """A network that PyTorch fails to compile."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.usefixtures("compiler")
def test_a_network_that_cannot_be_compiled_is_refused_by_name() -> None:
    net = Refusing()

    def backend(*_: Any) -> Any:
        raise ValueError("no such thing as this layer\nand more")

    call = torch.compile(lambda x: net._call_impl(x).sin(), backend=backend)
    with pytest.raises(ModelError, match=r"cannot compile Refusing .*set compile: false"), computed_by(net, call):
        net(torch.ones(2))
    assert net._compiled_call_impl is None
    assert torch.equal(net(torch.ones(2)), torch.ones(2))


def test_other_errors_of_the_network_stay_themselves() -> None:
    net = Refusing()

    def call(x: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), computed_by(net, call):
        net(torch.ones(2))
    assert net._compiled_call_impl is None


def test_without_a_call_nothing_changes() -> None:
    net = Refusing()
    with computed_by(net, None):
        assert net._compiled_call_impl is None


def test_where_nothing_compiles_training_says_what_is_missing(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "why_not", lambda kind: f"InvalidCxxCompiler: none for {kind}")
    with pytest.raises(MissingPackageError, match=r"none for cpu.*C\+\+ compiler.*compile: false"):
        losses(split, "pretrain", "pgd-at", {"steps": 1}, compile_=True)


def test_the_reason_is_the_first_line_of_what_pytorch_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("\nno compiler found\nat all")

    monkeypatch.setattr(torch, "compile", broken)
    assert why_not.__wrapped__("cpu") == "RuntimeError: no compiler found"
