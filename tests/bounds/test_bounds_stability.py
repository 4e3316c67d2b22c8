"""The stability loss of channels, and filters pruned by it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hedgerow.bounds import Network, ball, channel_instability, interval_walk, nrs_loss
from hedgerow.errors import ModelError
from hedgerow.pruners import FixedMask
from hedgerow.sparsity import prunable_weights, topk_mask
from hedgerow.threat import ThreatModel
from hedgerow.tracing import trace


def test_the_loss_is_the_formula_and_its_limits() -> None:
    lower, upper = torch.tensor([[[-1.0, -3.0], [0.5, 2.0]]]), torch.tensor([[[2.0, -1.0], [1.0, 3.0]]])
    gamma = torch.tensor([2.0, 0.5], requires_grad=True)
    expected = [
        -(math.tanh(1 - 2 / 4) + math.tanh(1 + 3 / 4)) / 2,
        -(math.tanh(1 + 0.5 / 0.25) + math.tanh(1 + 6 / 0.25)) / 2,
    ]
    found = nrs_loss(lower, upper, gamma)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert not found.requires_grad
    wide = torch.full((1, 1, 4), 100.0)
    assert nrs_loss(-wide, wide, torch.ones(1)).item() == pytest.approx(1)
    assert nrs_loss(wide, wide + 1, torch.ones(1)).item() == pytest.approx(-1)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 5), nn.Sigmoid(), nn.Linear(5, 3),
    ).eval()  # fmt: skip


def test_channels_are_judged_by_the_bounds_of_their_relus() -> None:
    net, x, threat = model(), torch.rand(5, 1, 8, 8), ThreatModel("linf", "1/20")
    with torch.no_grad():
        net[1].weight.uniform_(0.5, 2)
        net[1].bias[1] = 50  # a channel that is always on
    graph = trace(net, x)
    found = channel_instability(graph, net, x, threat)
    assert list(found) == ["0.weight", "3.weight"], "a sigmoid is no ReLU"
    assert found["0.weight"].argmin() == 1
    network = Network(graph, net)
    ends = next(iter(interval_walk(network, ball(x, threat)).ends.values()))
    assert torch.allclose(found["0.weight"], nrs_loss(ends.lower, ends.upper, net[1].weight))
    assert (channel_instability(graph, net, x, ThreatModel("linf", "1/5"))["3.weight"] >= found["3.weight"]).all()


def test_filters_pruned_by_it_leave_the_most_stable() -> None:
    net, x, threat = model(), torch.rand(5, 1, 8, 8), ThreatModel("linf", "1/20")
    loss = channel_instability(trace(net, x), net, x, threat)
    weights = prunable_weights(net)
    masks = {name: torch.ones_like(w.dense, dtype=torch.bool) for name, w in weights.items()}
    for name, each in loss.items():
        live = topk_mask(-each, len(each) // 2)
        masks[name] = live.view(-1, 1, 1, 1).expand_as(weights[name].dense).contiguous()
        assert each[live].max() <= each[~live].min()
    pruner = FixedMask(masks)
    pruner.attach(net)
    pruner.finish()
    assert [int(net[i].weight.flatten(1).any(1).sum()) for i in (0, 3)] == [3, 2]


def test_a_network_without_a_relu_has_nothing_to_judge() -> None:
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(2, 1, 2, 2)
    with pytest.raises(ModelError, match="Sequential has no ReLU after a convolution or linear layer"):
        channel_instability(trace(net, x), net, x, ThreatModel())
