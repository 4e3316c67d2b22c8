"""Bounds against auto-LiRPA's, the reference implementation; skipped where that is not installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import lirpa_oracle
import pytest
import torch

from hedgerow.bounds import Network, box, crown_walk, interval_walk, linear_least, output_bounds
from hedgerow.tracing import trace

if importlib.util.find_spec("auto_LiRPA") is None:
    pytest.skip(
        "auto-LiRPA is not installed (pip install --no-deps auto-LiRPA==0.3 appdirs tqdm)", allow_module_level=True
    )


@pytest.mark.parametrize("name", ["dense", "conv"])
def test_bounds_are_those_of_auto_lirpa(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = lirpa_oracle.build(name)
    x = torch.rand(3, 6) if name == "dense" else torch.rand(3, 1, 8, 8)
    lower, upper = x - 0.1, x + 0.1
    file = tmp_path / "case.pt"
    torch.save({"name": name, "weights": model.state_dict(), "lower": lower, "upper": upper}, file)
    subprocess.run(
        [sys.executable, lirpa_oracle.__file__, str(file)], check=True, capture_output=True, timeout=300
    )
    expected = torch.load(file, weights_only=True)
    graph = trace(model, x)
    with torch.no_grad():
        low, high = output_bounds(graph, model, lower, upper, "ibp", dtype=torch.float64)
        network = Network(graph, model, dtype=torch.float64)
        region = box(lower, upper).to(torch.float64)
        unit = torch.eye(3, dtype=torch.float64).expand(3, 3, 3)
        found = {"ibp": torch.stack([low, high])}
        for method, walk in {
            "crown-ibp": interval_walk(network, region, linear=True),
            "crown": crown_walk(network, region),
        }.items():
            ends = linear_least(walk, torch.cat([unit, -unit], 1)).chunk(2, 1)
            found[method] = torch.stack([ends[0], -ends[1]])
    for method, ends in found.items():
        # We also cut CROWN's intermediate bounds with intervals; there that moves a slope or two.
        near = 0.02 if (name, method) == ("conv", "crown") else 1e-5
        assert torch.allclose(ends.float(), expected[method], atol=near), method
