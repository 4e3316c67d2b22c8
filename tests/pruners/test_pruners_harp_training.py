"""HARP in training: its modes, its limits, resuming, and digits through the loop."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from small_cases import batch, small_model
from torch import nn
from torch.nn import functional as F

from hedgerow.data import Split, load_dataset
from hedgerow.objectives import Natural
from hedgerow.pruners import Hydra, Magnitude, Progress
from hedgerow.pruners.harp import Harp
from hedgerow.sparsity import Budget, count_nonzero, prunable_weights, shared_weights, total_count
from hedgerow.training import Plan, Setting, train


def attached(model: nn.Module, sparsity: Any = 0.9, **options: Any) -> Harp:
    pruner = Harp(**options)
    pruner.attach(model, Budget(sparsity))
    return pruner


def test_nothing_removed_is_the_dense_network_bit_for_bit() -> None:
    x, _ = batch()
    dense, model = small_model().eval(), small_model().eval()
    pruner = attached(model, 0)
    with torch.no_grad():
        assert torch.equal(model(x), dense(x))
        assert pruner.penalty().item() == 0
    pruner.finish()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), dense.parameters(), strict=True))


def epochs(model: nn.Module, pruner: Any, optimizer: Any, *, first: int = 0, last: int = 12) -> None:
    """Steps `first` to `last` of a run with three epochs of four steps."""
    x, y = batch()
    for step in range(first, last):
        optimizer.zero_grad()
        with shared_weights(model):
            loss, _ = Natural()(model, x.roll(step, 0), y)
            penalty = pruner.penalty()
            (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        pruner.after_step(Progress(step // 4, 3, step % 4, 4))


def sgd(pruner: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(pruner.parameters(), lr=0.3, momentum=0.9, weight_decay=5e-4)


def test_scores_alone_are_hydra_bit_for_bit() -> None:
    found = []
    for pruner in (Harp(mode="scores", score_decay=1e-3), Hydra(score_decay=1e-3)):
        model = small_model()
        pruner.attach(model, Budget(0.8, "erk"))
        assert pruner.penalty() is None
        epochs(model, pruner, sgd(pruner))
        found.append((pruner.finish(), model.state_dict()))
    for one, other in zip(*found, strict=True):
        assert list(one) == list(other)
        assert all(torch.equal(one[n], other[n]) for n in other)


def test_rates_alone_keep_the_order_of_magnitude() -> None:
    model = small_model()
    dense = {n: w.dense.detach().abs().clone() for n, w in prunable_weights(model).items()}
    pruner = attached(model, 0.9, mode="rates", start_density=0.3, gamma=0.5)
    before = {n: q.quota.item() for n, q in pruner.quotas.items()}
    epochs(model, pruner, sgd(pruner))
    assert all(q.quota.item() != before[n] for n, q in pruner.quotas.items())
    masks = pruner.finish()
    assert len({round(float(m.float().mean()), 3) for m in masks.values()}) > 1
    for name, mask in masks.items():
        assert dense[name][mask].min() >= dense[name][~mask].max()


def test_quotas_never_decay_and_weights_stand_still() -> None:
    model = small_model()
    pruner = attached(model, 0.9, train_norm=False, score_decay=0.1)
    groups = pruner.parameters()
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert [p.numel() for p in groups[1]["params"]] == [1, 1, 1]
    dense = {n: w.dense.detach().clone() for n, w in pruner.weights.items()}
    epochs(model, pruner, sgd(pruner))
    assert all(torch.equal(w.dense, dense[n]) for n, w in pruner.weights.items())


def test_stopping_in_the_middle_of_an_epoch_changes_nothing() -> None:
    def start() -> tuple[nn.Module, Harp, torch.optim.Optimizer]:
        model = small_model()
        pruner = attached(model, 0.95, start_density=0.5, gamma=0.2)
        return model, pruner, sgd(pruner)

    whole, uninterrupted, optimizer = start()
    epochs(whole, uninterrupted, optimizer)
    model, pruner, optimizer = start()
    epochs(model, pruner, optimizer, last=6)
    assert pruner.growth == 2
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), pruner.state_dict()], file)
    file.seek(0)
    model, pruner, optimizer = start()
    for part, state in zip((model, optimizer, pruner), torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    epochs(model, pruner, optimizer, first=6)
    assert pruner.state_dict() == uninterrupted.state_dict()
    assert pruner.selection.keep == uninterrupted.selection.keep
    assert all(
        torch.equal(a, b) for a, b in zip(pruner.finish().values(), uninterrupted.finish().values(), strict=True)
    )
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), whole.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("dims", [1, 3])
def test_convolutions_of_other_dimensions(dims: int) -> None:
    conv = {1: nn.Conv1d, 3: nn.Conv3d}[dims]
    torch.manual_seed(0)
    model = nn.Sequential(conv(4, 8, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4**dims, 3))
    frozen = model[0].bias
    frozen.requires_grad_(False)
    pruner = attached(model, 0.8)
    F.cross_entropy(model(torch.rand(2, 4, *[6] * dims)), torch.tensor([0, 1])).backward()
    assert all(q.quota.grad is not None and q.quota.grad != 0 for q in pruner.quotas.values())
    pruner.finish()
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["0.bias"]
    assert total_count(count_nonzero(model)).kept == pruner.asked


@pytest.fixture(scope="module")
def digits() -> Split:
    return load_dataset("digits", validation=0.1).train


def accuracy(model: nn.Module, split: Split) -> float:
    with torch.no_grad():
        return float((model.eval()(split.pixels()).argmax(1) == split.labels).float().mean())


def test_digits_through_the_loop(digits: Split) -> None:
    """The three stages: the target is reached by count, layers end unequal, the mask beats one shot."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 32), nn.ReLU(),
        nn.Linear(32, 10),
    )  # fmt: skip
    setting = Setting(accelerator="cpu")
    train(net, digits, Natural(), plan=Plan(epochs=3, batch_size=64, select="last"), setting=setting)
    pretrained = {name: value.clone() for name, value in net.state_dict().items()}
    budget = Budget(0.97)

    one_shot = Magnitude()
    one_shot.attach(net, budget)
    one_shot.finish()
    unlearned = accuracy(net, digits)

    net.load_state_dict(pretrained)
    pruner = Harp(gamma=0.05)
    met: list[bool] = []
    grown: list[int] = []

    class Watch:
        def start(self, *_: Any) -> None: ...
        def step(self, *_: Any) -> None: ...
        def epoch(self, metrics: dict[str, Any]) -> None:
            met.append(pruner.met)
            grown.append(pruner.growth)

    plan = Plan(epochs=8, batch_size=64, select="last", weight_decay=0.0)
    setting = Setting(accelerator="cpu", listeners=(Watch(),))
    masks = train(net, digits, Natural(), plan=plan, pruner=pruner, budget=budget, setting=setting).masks
    assert met == sorted(met)
    assert met[-1]
    assert grown[-1] == met.index(True) + 1 == grown[met.index(True)]  # frozen where the target was met
    assert total_count(count_nonzero(net)).kept <= pruner.asked
    densities = [float(m.float().mean()) for m in masks.values()]
    assert max(densities) > 2 * min(densities)
    assert accuracy(net, digits) > unlearned + 0.2
