"""What cannot be exported or read is refused in words, and leaves no file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hedgerow.errors import CheckpointError, DataError, MissingPackageError, ModelError
from hedgerow.export import (
    Agreement,
    Material,
    agreement,
    predictor,
    write_form,
    write_int8,
    write_onnx,
    write_program,
)
from hedgerow.export.agreement import compare
from hedgerow.registry import UnknownNameError


class Odd(nn.Module):
    """A forward pass of one operation on a linear layer."""

    def __init__(self, act: str) -> None:
        super().__init__()
        self.line, self.act = nn.Linear(64, 10), act
        self.stochastic = act == "noise"

    def forward(self, x: Tensor) -> Tensor:
        if self.act == "batch":
            return self.line(x.reshape(2, 64))  # type: ignore[no-any-return]
        y: Tensor = self.line(x.flatten(1))
        return torch.special.i0e(y) if self.act == "bessel" else y


IMAGES = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_an_operation_that_onnx_has_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"Odd cannot be an ONNX file: ONNX has no operation for prims\.bessel_i0e"
    ):
        write_onnx(tmp_path / "x.onnx", Odd("bessel"), IMAGES)
    assert not list(tmp_path.iterdir())


def test_a_fixed_batch_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Odd cannot be a torch\.export program"):
        write_program(tmp_path / "x.pt2", Odd("batch"), IMAGES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["onnx", "torch-export", "onnx-int8"])
def test_stochastic_models_and_images_out_of_range(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Odd draws random numbers"):
        write_form(name, tmp_path, Material(Odd("noise"), IMAGES, IMAGES))
    for wrong, message in (
        (3 * IMAGES, r"outside \[0,1\]"),
        (IMAGES.double(), "images are torch.float64"),
        (IMAGES[:0], "at least one"),
    ):
        with pytest.raises(DataError, match=message):
            write_form(name, tmp_path, Material(Odd("plain"), wrong, wrong))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("absent", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(absent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(MissingPackageError, match=rf"need {absent}: pip install hedgerow\[export\]"):
        write_onnx(tmp_path / "x.onnx", Odd("plain"), IMAGES)
    if absent == "onnxruntime":
        with pytest.raises(MissingPackageError, match=r"pip install hedgerow\[export\]"):
            predictor(tmp_path / "x.onnx")


def test_calibration_images_of_another_shape(tmp_path: Path) -> None:
    for wrong in (torch.rand(3, 1, 9, 9), torch.rand(0, 1, 8, 8), torch.rand(3, 1, 8, 8).double()):
        with pytest.raises(DataError, match=r"calibration images are .*; expected float32 \[M, 1, 8, 8\]"):
            write_int8(tmp_path / "x.onnx", Odd("plain"), IMAGES, calibration=wrong)


def test_a_program_needs_its_suffix(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"end in \.pt2"):
        write_program(tmp_path / "x.onnx", Odd("plain"), IMAGES)


def test_formats_and_files_that_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown format 'onx'; did you mean 'onnx'"):
        write_form("onx", tmp_path, Material(Odd("plain"), IMAGES, IMAGES))
    with pytest.raises(CheckpointError, match=r"net\.tflite: files that end in '.tflite' are not known"):
        predictor(tmp_path / "net.tflite")
    with pytest.raises(CheckpointError, match=r"the engine 'onnxruntime' reads \.onnx"):
        predictor(tmp_path / "net.pt2", engine="onnxruntime")
    with pytest.raises(CheckpointError, match="not a run folder"):
        predictor(tmp_path)


@pytest.mark.parametrize("name", ["onnx", "torch-export", "sparse"])
def test_a_file_cut_short(name: str, written: dict[str, tuple[Path, Agreement]], tmp_path: Path) -> None:
    whole = written[name][0]
    content = whole.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 20):
        cut = tmp_path / f"cut{whole.suffix}"
        cut.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="cut"):
            predictor(cut)


@pytest.mark.parametrize("name", ["onnx", "torch-export", "sparse"])
def test_images_of_the_wrong_shape(name: str, written: dict[str, tuple[Path, Agreement]]) -> None:
    answer = predictor(written[name][0])
    with pytest.raises(
        DataError, match=r"images are float32 \[2, 3, 8, 8\]; this file takes float32 \[N, 1, 8, 8\]"
    ):
        answer(torch.rand(2, 3, 8, 8))
    with pytest.raises(DataError, match="expected float32"):
        answer(torch.rand(2, 1, 8, 8).double())


def test_how_far_two_answers_are_apart() -> None:
    truth = torch.tensor([[1.0, -4.0], [2.0, 3.0]])
    found = agreement(truth, torch.tensor([[1.5, -4.0], [3.0, 2.9]]), "x")
    assert (found.images, found.largest, found.relative, found.same_class) == (2, 1.0, 0.25, 1)
    assert str(found) == "logits differ by 1 at most (0.25 of the largest), same class on 1 of 2 images"
    with pytest.raises(ModelError, match=r"x: gives \[2, 3\] for logits of \[2, 2\]"):
        agreement(truth, torch.zeros(2, 3), "x")
    with pytest.raises(ModelError, match="not all finite"):
        agreement(truth, truth / 0, "x")


def test_a_file_that_answers_otherwise_is_refused() -> None:
    images = torch.rand(3, 4)
    right = compare(images, lambda x: x, images, "x", tolerance=1e-3)
    assert right.largest == 0
    with pytest.raises(ModelError, match="x does not compute the network: logits differ"):
        compare(images, lambda x: 1.01 * x, images, "x", tolerance=1e-3)
    assert compare(images, lambda x: 1.01 * x, images, "x", tolerance=None).relative == pytest.approx(
        0.01, rel=1e-3
    )
    with pytest.raises(ModelError, match="for one image alone"):
        compare(images, lambda x: x if len(x) > 1 else 2 * x, images, "x", tolerance=1e-3)
