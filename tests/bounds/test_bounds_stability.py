"""The stability loss of channels, and filters pruned by it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from hedgerow.bounds import (
    Network,
    ball,
    channel_instability,
    interval_walk,
    neuron_instability,
    nrs_loss,
    stability_loss,
)
from hedgerow.errors import DataError, ModelError
from hedgerow.pruners import FixedMask
from hedgerow.sparsity import prunable_weights, topk_mask
from hedgerow.threat import ThreatModel
from hedgerow.tracing import Graph, trace


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
    with pytest.raises(ModelError, match="Sequential has no ReLU whose stability could be judged"):
        channel_instability(trace(net, x), net, x, ThreatModel())
    pooled = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AvgPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 3)).eval()
    with pytest.raises(ModelError, match="Sequential has no ReLU after a convolution or linear layer"):
        channel_instability(trace(pooled, x), pooled, x, ThreatModel())
    with pytest.raises(ModelError, match="no ReLU whose stability could be trained for; set stability 0"):
        stability_loss(interval_walk(Network(trace(net, x), net), ball(x, ThreatModel())))


def test_images_are_needed_and_fit_the_network() -> None:
    net, x = model(), torch.rand(2, 1, 8, 8)
    graph = trace(net, x)
    with pytest.raises(DataError, match="judged on images, and there are none"):
        neuron_instability(graph, net, x[:0], ThreatModel())
    with pytest.raises(DataError, match=r"images are \[1, 9, 8\]; the network was traced with \[1, 8, 8\]"):
        neuron_instability(graph, net, torch.rand(2, 1, 9, 8), ThreatModel())
    with pytest.raises(DataError, match="pixels run from"):
        neuron_instability(graph, net, x + 1, ThreatModel())


def two_neurons() -> tuple[nn.Sequential, Tensor]:
    """x in [0.1, 0.3] x [0.4, 0.6] at eps 0.1; the first neuron is open, the second one is on."""
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 2)).double().eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -1.0], [2.0, 1.0]]))
        net[0].bias.copy_(torch.tensor([0.3, 0.0]))
        net[1].weight.copy_(torch.tensor([0.5, -2.0]))
        net[1].bias.copy_(torch.tensor([0.05, 6.0]))
        net[1].eps = 0.0
    return net, torch.tensor([[0.2, 0.5]], dtype=torch.float64)


def test_the_loss_of_two_neurons_by_hand() -> None:
    """0.3 + x - y is in [-0.2, 0.2], behind the norm in [-0.05, 0.15]; 2 x + y in [0.6, 1.2], then [3.6, 4.8]."""
    net, x = two_neurons()
    graph, threat = trace(net, x), ThreatModel("linf", "1/10")
    expected = [-math.tanh(1 - 0.05 * 0.15 / 0.25), -math.tanh(1 + 3.6 * 4.8 / 4)]
    ((node, found),) = neuron_instability(graph, net, x, threat).items()
    assert node.op == "relu"
    assert found.tolist() == pytest.approx(expected, abs=1e-7)
    walk = interval_walk(Network(graph, net), ball(x, threat))
    assert stability_loss(walk).item() == pytest.approx(sum(expected) / 2, abs=1e-7)
    net[1] = nn.Identity()
    plain = [-math.tanh(1 - 0.2 * 0.2), -math.tanh(1 + 0.6 * 1.2)]
    (found,) = neuron_instability(trace(net, x), net, x, threat).values()
    assert found.tolist() == pytest.approx(plain, abs=1e-7)


def training_loss(graph: Graph, net: nn.Module, x: Tensor) -> Tensor:
    return stability_loss(interval_walk(Network(graph, net), ball(x, ThreatModel("linf", "1/20"))))


def test_gradients_are_those_of_finite_differences_but_for_gamma() -> None:
    net, x = model().double(), torch.rand(3, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        net[1].weight.uniform_(0.5, 2).mul_(torch.tensor([1.0, -1, 1, 1, -1, 1]))
        net[1].bias.uniform_(-1, 1)
    graph = trace(net, x)
    weights = {name: p for name, p in net.named_parameters() if name.startswith(("0.", "1.", "3."))}
    found = dict(zip(weights, torch.autograd.grad(training_loss(graph, net, x), [*weights.values()]), strict=True))
    step = 1e-6
    for name, weight in weights.items():
        for i in (0, weight.numel() - 1):
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    weight.view(-1)[i] += sign * step
                    ends.append(training_loss(graph, net, x).item())
                    weight.view(-1)[i] -= sign * step
            slope = (ends[0] - ends[1]) / (2 * step)
            if name != "1.weight":
                assert found[name].view(-1)[i].item() == pytest.approx(slope, abs=1e-7), name
    assert min(each.abs().max() for each in found.values()) > 1e-4


def test_no_gradient_reaches_the_scale_before_a_relu() -> None:
    net, x = two_neurons()
    with torch.no_grad():
        net[1].bias.copy_(torch.tensor([-0.02, 1.9]))
    walk = interval_walk(Network(trace(net, x), net), ball(x, ThreatModel("linf", "1/10")))
    gamma, beta, weight = (torch.autograd.grad(stability_loss(walk), p, retain_graph=True)[0]
                           for p in (net[1].weight, net[1].bias, net[0].weight))  # fmt: skip
    assert gamma.abs().max() < 1e-12
    assert beta.abs().min() > 1e-3
    assert weight.abs().max() > 1e-3
    ((_, ends),) = walk.ends.items()
    (through,) = torch.autograd.grad(nrs_loss(ends.lower, ends.upper, net[1].weight).mean(), net[1].weight)
    assert through.abs().min() > 1e-3, "leaving it out of the divisor alone is not enough"


def test_a_channel_of_scale_0_has_a_finite_gradient() -> None:
    net, x = two_neurons()
    with torch.no_grad():
        net[1].weight[0] = 0
        net[1].bias[0] = 0
    loss = training_loss(trace(net, x), net, x)
    assert loss.item() == pytest.approx((-math.tanh(1) - math.tanh(1 + 3.9 * 4.5 / 4)) / 2)
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, list(net[:2].parameters())))


def test_every_kink_at_0_counts_and_every_channel_alike() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.LeakyReLU(0.1), nn.Conv2d(3, 2, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(32, 5),
        nn.ReLU(), nn.Linear(5, 2),
    ).eval()  # fmt: skip
    x = torch.rand(2, 1, 8, 8)
    walk = interval_walk(Network(trace(net, x), net), ball(x, ThreatModel("linf", "1/20")))
    leaky, _, relu = walk.ends.values()
    parts = [*nrs_loss(leaky.lower, leaky.upper, torch.ones(3)), *nrs_loss(relu.lower, relu.upper, torch.ones(5))]
    assert stability_loss(walk).item() == pytest.approx(sum(p.item() for p in parts) / 8, rel=1e-6)


def test_parts_and_formats_give_the_same() -> None:
    net, x, threat = model(), torch.rand(5, 1, 8, 8), ThreatModel("linf", "1/20")
    graph = trace(net, x)
    whole = neuron_instability(graph, net, x, threat)
    for more in ({"memory": 1}, {"dtype": torch.float64}):
        for one, other in zip(
            whole.values(), neuron_instability(graph, net, x, threat, **more).values(), strict=True
        ):
            torch.testing.assert_close(one, other.float(), atol=1e-5, rtol=1e-5)
