"""A file as a module: the network's answers in any batch, gradients where there are some, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from hedgerow.attacks import crafting
from hedgerow.engines.modules import BlackBox, Program, read_module
from hedgerow.errors import CheckpointError, DataError
from hedgerow.export.onnx_file import write_onnx
from hedgerow.export.program import write_program

X = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 4)).eval()


@pytest.fixture(scope="module")
def folder(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modules")
    write_program(folder / "any.pt2", network, X)
    torch.export.save(torch.export.export(network, (X[:3],)), folder / "three.pt2")
    onnx = pytest.importorskip("onnx")
    write_onnx(folder / "any.onnx", network, X)
    alone = onnx.load(folder / "any.onnx")
    for end in (*alone.graph.input, *alone.graph.output):
        end.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(alone, folder / "one.onnx")
    return folder


@pytest.mark.parametrize("name", ["any.pt2", "three.pt2", "any.onnx", "one.onnx"])
def test_any_batch_goes_through_any_file(network: nn.Module, folder: Path, name: str) -> None:
    module = read_module(folder / name, threads=1)
    assert isinstance(module, BlackBox if name.endswith(".onnx") else Program)
    with crafting(module) as inner, torch.no_grad():
        for n in (5, 3, 1):
            assert torch.allclose(inner(X[:n]), network(X[:n]), atol=1e-5)
    assert list(module.parameters()) == []


@pytest.mark.parametrize("name", ["any.pt2", "three.pt2"])
def test_gradients_flow_through_a_program(network: nn.Module, folder: Path, name: str) -> None:
    x = X.clone().requires_grad_()
    (found,) = torch.autograd.grad(read_module(folder / name, threads=1)(x)[:, 1].sum(), x)
    (expected,) = torch.autograd.grad(network(x)[:, 1].sum(), x)
    assert torch.allclose(found, expected, atol=1e-6)


def test_no_gradient_comes_back_from_a_black_box(folder: Path) -> None:
    module = read_module(folder / "any.onnx", threads=1)
    assert not module(X.clone().requires_grad_()).requires_grad


def test_files_are_told_apart_by_what_they_hold(folder: Path, tmp_path: Path) -> None:
    digests = [read_module(folder / name, threads=1).state_dict()["digest"] for name in ("any.pt2", "any.onnx")]
    assert not torch.equal(*digests)
    copy = tmp_path / "other-name.pt2"
    copy.write_bytes((folder / "any.pt2").read_bytes())
    assert torch.equal(read_module(copy, threads=1).state_dict()["digest"], digests[0])


@pytest.mark.parametrize("name", ["any.pt2", "any.onnx"])
def test_other_images_and_files_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    module = read_module(folder / name, threads=1)
    for wrong in (X.double(), torch.rand(2, 3, 6, 6), torch.rand(2, 1, 8, 8)):
        with pytest.raises(DataError, match=r"this file takes float32 \[N, 1, 6, 6\] in \[0,1\]"):
            module(wrong)
    spoilt = tmp_path / name
    spoilt.write_bytes((folder / name).read_bytes()[:200])
    with pytest.raises(CheckpointError):
        read_module(spoilt, threads=1)
