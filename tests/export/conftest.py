from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from export_cases import material

from hedgerow.export import Agreement, Material, write_form


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def made() -> Material:
    """A masked residual network on real digits; tests do not change it."""
    return material()


@pytest.fixture(scope="session")
def written(made: Material, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Agreement]]:
    """Every form of it, written once: exports to ONNX take seconds."""
    folder = tmp_path_factory.mktemp("forms")
    names = (
        "sparse",
        "sparse-float16",
        "sparse-int8",
        "shrunk",
        "torch-export",
        "onnx",
        "shrunk-onnx",
        "onnx-int8",
    )
    return {name: write_form(name, folder, made) for name in names}
