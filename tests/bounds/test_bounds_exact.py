"""Bounds against what is known exactly: closed forms, all ReLU patterns, a network worked out by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from gardens import Garden, dense, pixels
from scipy.optimize import linprog
from torch import Tensor, nn

from hedgerow.bounds import (
    METHODS,
    Network,
    box,
    interval_least,
    interval_walk,
    linear_least,
    margin_bounds,
    output_bounds,
)
from hedgerow.threat import ThreatModel
from hedgerow.tracing import Graph, run

LAYERS = {"one layer": (12, 4), "three layers": (12, 7, 9, 4)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("widths", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_network_is_bounded_exactly(norm: str, widths: tuple[int, ...], method: str) -> None:
    garden = Garden(widths[:1])
    for width in widths[1:]:
        garden.linear(width)
    graph, model = garden.graph(), garden.model
    x, y = pixels(5, widths[:1], seed=3), torch.arange(5) % 4
    threat = ThreatModel(norm, "3/10")  # type: ignore[arg-type]
    with torch.no_grad():
        found = margin_bounds(graph, model, x, y, threat, method)  # type: ignore[arg-type]
        matrix = run(graph, model, torch.eye(12).double()) - run(graph, model, torch.zeros(1, 12).double())
        start = run(graph, model, torch.zeros(1, 12).double())[0]
    for n, j in itertools.product(range(5), range(4)):
        row = matrix[:, y[n]] - matrix[:, j]
        low, high = (x[n] - 0.3).clamp(0, 1), (x[n] + 0.3).clamp(0, 1)
        exact = torch.where(row > 0, low, high) @ row
        if norm == "l2":
            small, large = 1e-15, 1e15
            for _ in range(200):
                middle = (small * large) ** 0.5
                step = torch.clamp(-row / middle, low - x[n], high - x[n])
                small, large = (middle, large) if step.norm() > 0.3 else (small, middle)
            exact = row @ (x[n] + step)
        exact = exact + start[y[n]] - start[j]
        assert found[n, j].item() == pytest.approx(exact.item(), abs=1e-5 if norm == "l2" else 1e-12)
        assert found[n, j] <= exact + 1e-12


def smallest_by_patterns(graph: Graph, model: nn.Module, lower: Tensor, upper: Tensor, row: Tensor) -> float:
    """The exact minimum of `row` over the outputs of linear-ReLU-linear: a linear program for every pattern."""
    first, bias, last, top = (p.detach().numpy() for p in model.parameters())
    best = float("inf")
    for pattern in itertools.product([0.0, 1.0], repeat=len(bias)):
        on = torch.tensor(pattern, dtype=torch.float64).numpy()
        cost = row.numpy() @ last @ (on[:, None] * first)
        side = 1 - 2 * on  # on: -(w x + b) <= 0, off: w x + b <= 0
        found = linprog(
            cost,
            A_ub=side[:, None] * first,
            b_ub=-side * bias,
            bounds=list(zip(lower.tolist(), upper.tolist(), strict=True)),
        )
        if found.status == 0:
            best = min(best, found.fun + row.numpy() @ (last @ (on * bias) + top))
    return best


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("radius", [1e-3, 0.15, 0.6])
def test_all_patterns_of_a_tiny_network(seed: int, radius: float) -> None:
    graph, model = dense(3, 5, 2, seed=seed)
    x = pixels(1, (3,), seed)
    lower, upper = x - radius, x + radius
    rows = torch.tensor([[1.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    exact = torch.tensor([smallest_by_patterns(graph, model, lower[0], upper[0], row) for row in rows])
    with torch.no_grad():
        network = Network(graph, model)
        found = interval_walk(network, box(lower, upper))
        by_lines = linear_least(found, rows.unsqueeze(0))[0]
        best = output_bounds(graph, model, lower, upper, "alpha-crown", steps=60)[0][0, 0]
    assert (by_lines <= exact + 1e-9).all()
    assert best <= exact[1] + 1e-9
    ends = found.ends[network.output.inputs[0]]
    if not ((ends.lower < 0) & (ends.upper > 0)).any():
        assert torch.allclose(by_lines, exact, atol=1e-9), "no kink inside: the network is linear there"
    assert exact[1] - best <= exact[1] - by_lines[1] + 1e-12
    assert exact[1] - best < 0.35 * radius, "one layer of ReLUs costs little with the best slopes"


def by_hand() -> tuple[Graph, nn.Module]:
    """z1 = x1 + x2 + 1, z2 = x1 - x2 - 1, y = 2 relu(z1) - relu(z2)."""
    graph, model = dense(2, 2, 1)
    values = [[[1, 1], [1, -1]], [1, -1], [[2, -1]], [0]]
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), values, strict=True):
            parameter.copy_(torch.tensor(value, dtype=torch.float64))
    return graph, model


def test_a_network_worked_out_by_hand() -> None:
    """On [-1, 1]^2: z1 in [-1, 3], z2 in [-3, 1], and so relu(z1) in [0, 3], relu(z2) in [0, 1], y in [-1, 6].

    Lines: z1 <= relu(z1) <= (3 z1 + 3) / 4 and 0 <= relu(z2) <= (z2 + 3) / 4. Below, y >= 2 z1 - (z2 + 3) / 4
    = 7/4 x1 + 9/4 x2 + 3/2, which is -5/2 at worst. Above, y <= (3 z1 + 3) / 2 = 3/2 (x1 + x2) + 3, at most 6.
    With t z1 in place of z1, y >= (2t - 1/4) x1 + (2t + 1/4) x2 + 2t - 1/2: -1/2 - 2t for t above 1/8, 2t - 1
    below it, at best -3/4. In truth z2 > 0 and z1 < 0 exclude each other, and y is in [0, 6].
    """
    graph, model = by_hand()
    one = torch.ones(1, 2, dtype=torch.float64)
    rows = torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64)
    with torch.no_grad():
        found = interval_walk(Network(graph, model), box(-one, one))
        assert interval_least(found, rows)[0].tolist() == pytest.approx([-1, -6], abs=1e-12)
        assert linear_least(found, rows)[0].tolist() == pytest.approx([-2.5, -6], abs=1e-12)
        lower, upper = output_bounds(graph, model, -one, one, "alpha-crown", steps=100)
    assert lower.item() == pytest.approx(-0.75, abs=1e-3)
    assert upper.item() == pytest.approx(6, abs=1e-12)
