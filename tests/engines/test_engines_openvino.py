"""OpenVINO, which no extra installs: a clear word without it, the same logits with it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hedgerow.engines import ENGINES
from hedgerow.errors import CheckpointError, MissingPackageError
from hedgerow.export import write_onnx

NAME = "hedgerow.engines.openvino:OpenVino"


def test_without_it_the_user_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingPackageError, match="pip install openvino"):
        ENGINES[NAME].load(tmp_path / "net.onnx", 1)


def test_it_computes_what_pytorch_does_and_refuses_what_is_no_network(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    images = torch.rand(5, 3, 8, 8)
    write_onnx(tmp_path / "net.onnx", model, images)
    loaded = ENGINES[NAME].load(tmp_path / "net.onnx", 1)
    assert loaded.shape == (3, 8, 8)
    with torch.no_grad():
        assert np.allclose(loaded(images.numpy()), model(images).numpy(), atol=1e-5)
    (tmp_path / "bad.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"bad\.onnx: OpenVINO cannot load it"):
        ENGINES[NAME].load(tmp_path / "bad.onnx", 1)
