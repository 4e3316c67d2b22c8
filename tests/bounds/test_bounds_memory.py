"""The memory limit: kept to, by splitting examples and functions, and without a trace in the result."""

from __future__ import annotations

import functools

import pytest
import torch
from counting import PeakMemory
from torch import nn

from hedgerow.bounds import METHODS, Method, margin_bounds, output_bounds
from hedgerow.errors import CertificationError
from hedgerow.threat import ThreatModel
from hedgerow.tracing import Graph, trace


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(2 * 16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.a(x))
        return self.fc(torch.relu(self.pool(x + torch.relu(self.b(x)))).flatten(1))  # type: ignore[no-any-return]


@functools.cache
def case() -> tuple[Graph, nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = Residual()
    x = torch.rand(8, 1, 8, 8)
    return trace(model, x), model, x, torch.arange(8) % 4


def bounds(method: Method, norm: str, memory: int) -> tuple[torch.Tensor, int]:
    graph, model, x, y = case()
    n = 8 if method in ("ibp", "crown-ibp") else 3
    with torch.no_grad(), PeakMemory() as used:
        threat = ThreatModel(norm, "1/200")  # type: ignore[arg-type]
        found = margin_bounds(graph, model, x[:n], y[:n], threat, method, memory=memory, steps=2)
    return found, used.peak


def test_the_scales_weigh_right() -> None:
    with PeakMemory() as used:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = torch.zeros(500).view(5, 100)
        del b
    assert (used.peak, used.now) == (8000, 2000)
    assert c.numel() == 500


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", METHODS)
def test_the_limit_is_kept_and_changes_nothing(method: Method, norm: str) -> None:
    whole, most = bounds(method, norm, 2**32)
    for memory in (most // 2, most // 4) if "ibp" in method else (most // 2,):
        found, peak = bounds(method, norm, memory)
        assert peak <= memory, f"{peak} bytes where {memory} were allowed"
        assert torch.allclose(found, whole, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_less_memory_than_one_row_needs_is_slow_and_no_failure(method: Method) -> None:
    graph, model, x, y = case()
    few = (x[:1, :, :, :], y[:1])
    with torch.no_grad():
        threat = ThreatModel("linf", "1/5000")
        found = margin_bounds(graph, model, *few, threat, method, memory=1, steps=1)
        assert torch.allclose(found, margin_bounds(graph, model, *few, threat, method, steps=1), atol=1e-4)


def test_the_rows_of_many_outputs_are_split_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 500))
    x = torch.rand(2, 20)
    graph = trace(model, x)
    with torch.no_grad():
        whole = output_bounds(graph, model, x - 0.01, x + 0.01, "crown")
        found = output_bounds(graph, model, x - 0.01, x + 0.01, "crown", memory=2**17)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, whole, strict=True))


@pytest.mark.parametrize("memory", [0, -1])
def test_no_memory_is_refused(memory: int) -> None:
    with pytest.raises(CertificationError, match=f"memory is {memory}; give the bytes"):
        bounds("ibp", "linf", memory)
