"""Parts of a network that are computed again in the backward pass: the same training in less memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from phase_cases import PHASES, THREAT, Recorder, digits, plan, same_state
from phase_cases import model as small
from torch import Tensor, nn

from hedgerow.errors import ModelError
from hedgerow.models import build_model
from hedgerow.objectives import OBJECTIVES
from hedgerow.sparsity import Budget
from hedgerow.training import Setting, train
from hedgerow.training.recompute import recomputing, stages_of


def residual() -> nn.Module:
    return build_model("resnet20", num_classes=10, channels=1, image_size=(8, 8), mean=[0.5], std=[0.25], seed=0)


def chain() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(8):
        layers += [
            nn.Conv2d(1 if not layers else 8, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.1),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


def held(net: nn.Module, x: Tensor, again: bool) -> int:
    """Return the bytes that a forward pass of `net` keeps for its backward pass, each piece of memory once."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    inside = recomputing(net, stages_of(net, x)) if again else nullcontext()
    with inside, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(x)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def trained(make: Callable[[], nn.Module], phase: str, objective: str, again: bool, **options: Any) -> Any:
    net, recorder = make(), Recorder()
    train(
        net,
        digits(),
        OBJECTIVES[objective](THREAT, **options),
        plan=plan(epochs=1, select="last"),
        pruner=PHASES[phase](net),
        budget=Budget(0.7),
        setting=Setting(seed=3, accelerator="cpu", recompute=again, listeners=(recorder,)),
    )
    return net.state_dict(), list(recorder.losses.values())


@pytest.mark.parametrize("make", [residual, chain])
def test_less_is_held_for_the_backward_pass(make: Callable[[], nn.Module]) -> None:
    net, x = make(), torch.rand(64, 1, 8, 8)
    assert held(net, x, again=True) < 0.5 * held(net, x, again=False)


@pytest.mark.parametrize("make", [residual, chain])
@pytest.mark.parametrize(
    ("phase", "objective", "options"),
    [
        ("pretrain", "pgd-at", {"steps": 1}),
        ("prune", "trades", {"steps": 1}),
        ("finetune", "pgd-at", {"steps": 1, "craft_mode": "train"}),
    ],
)
def test_training_is_the_same_bit_for_bit(
    make: Callable[[], nn.Module], phase: str, objective: str, options: dict[str, Any]
) -> None:
    """Weights, running statistics and how many batches they have seen; with dropout, which must repeat."""
    plain, losses = trained(make, phase, objective, False, **options)
    again, others = trained(make, phase, objective, True, **options)
    assert losses == others
    assert same_state(plain, again)


def test_parts_are_computed_twice_where_weights_learn_and_once_where_they_do_not() -> None:
    net, x, calls = chain(), torch.rand(4, 1, 8, 8), []
    stages = stages_of(net, x)
    net[9].register_forward_hook(lambda *_: calls.append(1))
    with recomputing(net, stages):
        net(x).sum().backward()
        assert len(calls) == 2
        for parameter in net.parameters():
            parameter.requires_grad_(False)
        net(x.requires_grad_()).sum().backward()
        assert len(calls) == 3
        with torch.no_grad():
            net(x)
    assert len(calls) == 4


def test_looking_for_stages_leaves_the_network_as_it_was() -> None:
    net = residual()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    assert stages_of(net, torch.rand(1, 1, 8, 8))
    assert same_state(before, net.state_dict())
    assert modes == [module.training for module in net.modules()]
    assert not any("forward" in vars(module) or module._forward_hooks for module in net.modules())


def test_a_forward_of_the_module_s_own_is_called_and_stays() -> None:
    net, x = residual(), torch.rand(2, 1, 8, 8)
    stages, calls = stages_of(net, x), []
    module, plain = stages[0].module, stages[0].module.forward
    module.forward = own = lambda *given: calls.append(1) or plain(*given)
    with recomputing(net, stages):
        net(x).sum().backward()
    assert len(calls) == 2
    assert module.forward is own


def test_a_network_without_parts_to_hold_less_of_is_left_alone() -> None:
    assert stages_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), torch.rand(1, 1, 8, 8)) == []


def test_perturbed_weights_are_refused_before_training() -> None:
    with pytest.raises(ModelError, match=r"recompute: .* awp .* leave out recompute or awp"):
        trained(small, "pretrain", "pgd-at", True, steps=1, awp=0.01)


class Twice(nn.Module):
    """Calls one block twice; what a call of a part is for cannot be told by the part."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.Tanh())
        self.head = small()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.block(self.block(x)))
        return out


def test_a_block_that_is_called_twice_trains_the_same() -> None:
    def make() -> nn.Module:
        torch.manual_seed(1)
        return Twice()

    plain, losses = trained(make, "pretrain", "pgd-at", False, steps=1)
    again, others = trained(make, "pretrain", "pgd-at", True, steps=1)
    assert losses == others
    assert same_state(plain, again)
