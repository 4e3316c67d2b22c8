"""Every method in every form on one network with every kind of layer: attached, trained, finished and tuned."""

from __future__ import annotations

import copy
from typing import Any

import dense_cases
import pytest
import torch
from torch import Tensor, nn

from hedgerow.pruners import PRUNERS, FixedMask, Pruner
from hedgerow.sparsity import Budget, count_nonzero, kept_count, prunable_weights, sparse_view, total_count
from hedgerow.sparsity.blocks import EXAMPLES, parse_granularity

FORMS = {parse_granularity(example).family: example for example in EXAMPLES}
# Methods that look at images need bounds, and there are none for attention.
METHODS = [name for name in PRUNERS if PRUNERS[name].images == 1]
CASES = [(name, FORMS[family]) for name in METHODS for family in PRUNERS[name].granularities]
HALF = Budget("1/2")


class Mixed(nn.Module):
    """Convolutions in one, two and three dimensions, grouped and depthwise, and attention, in both its forms."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.volume = nn.Conv3d(2, 4, 3, padding=1)
        self.line = nn.Conv1d(4, 8, 4, stride=4)
        self.position = nn.Parameter(0.1 * torch.randn(1, 16, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.across = nn.MultiheadAttention(8, 2, kdim=4, vdim=4, batch_first=True)
        self.last = nn.LayerNorm(8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.depthwise(self.norm(self.first(x)).relu()).relu()).relu()
        x = self.volume(x.unflatten(1, (2, 4))).relu()
        x = self.line(x.flatten(2)).transpose(1, 2) + self.position
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.across(x, x[..., :4], x[..., 4:])[0]
        return self.fc(self.last(x.mean(dim=1)))


def mixed() -> nn.Module:
    torch.manual_seed(0)
    return Mixed()


def train(model: nn.Module, pruner: Pruner, epochs: int) -> None:
    optimizer: Any = torch.optim.SGD(pruner.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    dense_cases.loop(model, pruner, optimizer, epochs=epochs)


def answers(model: nn.Module, x: Tensor) -> Tensor:
    """Logits on the path of autograd and on torch's native one, `[2, N, classes]`; the mode stays."""
    training = model.training
    model.eval()
    with torch.no_grad():
        native = model(x)
    logits = torch.stack([model(x).detach(), native])
    model.train(training)
    assert logits.isfinite().all()
    return logits


@pytest.mark.parametrize(("name", "form"), CASES, ids=[f"{name}-{form}" for name, form in CASES])
def test_a_method_prunes_every_kind_of_layer(name: str, form: str) -> None:
    model, fresh, x = mixed(), mixed(), dense_cases.batches(9)[0][0]
    parameters = [id(p) for p in model.parameters()]
    pruner = PRUNERS[name](granularity=form)  # type: ignore[call-arg]
    pruner.attach(model, HALF)
    train(model, pruner, epochs=2)
    with sparse_view(model):
        validated = answers(model, x)
    masks = pruner.finish()
    if PRUNERS[name].learns:  # the others decide when they finish
        torch.testing.assert_close(answers(model, x), validated)

    weights = prunable_weights(model)
    assert list(masks) == list(weights) == list(prunable_weights(fresh))
    for weight, mask in masks.items():
        assert mask.dtype == torch.bool
        assert mask.shape == weights[weight].dense.shape
        assert mask.any(), weight
        assert (weights[weight].dense[~mask] == 0).all()
    if form == "weight":
        sizes = [mask.numel() for mask in masks.values()]
        allowed = {sum(kept_count(size, HALF.sparsity) for size in sizes), kept_count(sum(sizes), HALF.sparsity)}
        kept = sum(int(mask.sum()) for mask in masks.values())
        assert kept <= max(allowed) if PRUNERS[name].learns_budget else kept in allowed
    assert 0.3 < total_count(count_nonzero(model)).sparsity < 0.7
    assert [id(p) for p in model.parameters()] == parameters
    assert [type(m) for m in model.modules()] == [type(m) for m in fresh.modules()]
    assert list(model.state_dict()) == list(fresh.state_dict())
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(answers(fresh, x), answers(model, x))

    before = copy.deepcopy(model.state_dict())
    tuned = FixedMask(masks)
    tuned.attach(model)
    train(model, tuned, epochs=1)
    tuned.finish()
    for weight, mask in masks.items():
        after = model.state_dict()[weight]
        assert (after[~mask] == 0).all()
        assert not torch.equal(after[mask], before[weight][mask]), weight
