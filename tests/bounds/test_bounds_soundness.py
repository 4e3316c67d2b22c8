"""The hunt: no point of a region has a smaller margin than the bound, for any method and any kind of layer."""

from __future__ import annotations

import pytest
import torch
from gardens import pixels, smallest_margins
from hypothesis import given, settings
from hypothesis import strategies as st
from layers_of_all_kinds import grown
from torch import Tensor, nn

from hedgerow.bounds import METHODS, margin_bounds
from hedgerow.models import build_model
from hedgerow.threat import ThreatModel
from hedgerow.tracing import Graph, trace

THREATS = [("linf", "1/50"), ("linf", "1/5"), ("linf", "1"), ("l2", "1/10"), ("l2", "1/2"), ("l2", "3")]
seeds, depths = st.integers(0, 10**9), st.integers(0, 6)
threats = st.sampled_from(THREATS).map(lambda pair: ThreatModel(*pair))


def hunt(graph: Graph, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, **effort: int) -> None:
    found = smallest_margins(graph, model, x, y, threat, **effort)
    before = torch.full_like(found, -torch.inf)
    slack = 1e-11 * (1 + found.abs())  # of the forward passes that looked for the smallest margins
    for method in METHODS:
        with torch.no_grad():
            bound = margin_bounds(graph, model, x, y, threat, method, steps=2)
        assert bound.isfinite().all()
        assert (bound <= found + slack).all(), f"{method} claims too much by {(bound - found).max():.3g}"
        assert (bound >= before).all(), f"{method} is looser than the method before it"
        before = bound


@settings(deadline=None, max_examples=60)
@given(seeds, depths, threats)
def test_no_point_breaks_a_bound(seed: int, depth: int, threat: ThreatModel) -> None:
    graph, model = grown(seed, depth)
    x = pixels(8, graph.input.shape[1:], seed)
    hunt(graph, model, x, torch.arange(8) % 3, threat, draws=8, steps=6)


@pytest.mark.slow
@settings(deadline=None, max_examples=3000)
@given(seeds, st.integers(0, 9), threats)
def test_no_point_breaks_a_bound_in_a_long_hunt(seed: int, depth: int, threat: ThreatModel) -> None:
    graph, model = grown(seed, depth)
    hunt(graph, model, pixels(6, graph.input.shape[1:], seed), torch.arange(6) % 3, threat, draws=60, steps=30)


@pytest.mark.parametrize("eps", ["1/1000", "1/10"])
def test_no_point_breaks_a_bound_of_a_traced_residual_network(eps: str) -> None:
    model = build_model(
        "resnet20", num_classes=3, channels=1, image_size=(8, 8), mean=(0.4,), std=(0.3,), options={"width": 2}
    )
    model = model.double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    graph = trace(model, pixels(1, (1, 8, 8)))
    hunt(graph, model, pixels(2, (1, 8, 8)), torch.tensor([0, 2]), ThreatModel("linf", eps), draws=10, steps=10)
