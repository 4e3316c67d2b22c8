"""The table of forms a network can be written in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hedgerow.compact import Shrunk, shrink, write_sparse
from hedgerow.compact.values import ValueCode
from hedgerow.engines.pytorch import by_torch, read_network
from hedgerow.export.agreement import TOLERANCE, Agreement, compare, expected_logits
from hedgerow.export.onnx_file import at_least_two, write_onnx
from hedgerow.export.program import write_program
from hedgerow.export.quantised import write_int8
from hedgerow.files import write_atomically
from hedgerow.registry import Registry


@dataclass
class Material:
    """What forms are made of: the network, real images `[N, ...]` to compare on, training images to calibrate on.

    Images are float32 in [0,1]. `multiple_of` is `shrink`'s; `about` goes into the sparse files. The smaller
    network is made once, when the first form asks for it.
    """

    model: nn.Module
    images: Tensor
    calibration: Tensor
    multiple_of: int = 16
    about: Mapping[str, Any] = field(default_factory=dict)
    onnx: Path | None = None  # the float32 file, once it is written

    @cached_property
    def shrunk(self) -> Shrunk:
        """The network without its dead channels."""
        return shrink(self.model, at_least_two(self.images), multiple_of=self.multiple_of)


@dataclass(frozen=True)
class Form:
    """One form: how its file ends, which engine runs it, what it is, and what writes it.

    `exact` forms compute the network up to rounding. Where `smooth`, the file gives back a module that can be
    attacked through its gradients.
    """

    suffix: str
    engine: str
    summary: str
    write: Callable[[Path, Material], Agreement]
    exact: bool = True
    smooth: bool = False


FORMS: Registry[Form] = Registry("format")


def write_form(name: str, folder: Path, material: Material) -> tuple[Path, Agreement]:
    """Write one form as `folder/NAME.SUFFIX`; return the file, and how well it agrees with the network.

    Raises `UnknownNameError` for a form nobody registered, and the `ModelError` of the form.
    """
    form = FORMS[name]
    path = folder / f"{name}{form.suffix}"
    return path, form.write(path, material)


def known_forms() -> dict[str, str]:
    """Return what each registered form is, in words."""
    return {name: FORMS[name].summary for name in FORMS}


def sparse_form(path: Path, model: nn.Module, material: Material, values: ValueCode) -> Agreement:
    """Write a sparse file and compare it with the network of the material."""
    expected = expected_logits(material.model, material.images)

    def write(temporary: Path) -> None:
        write_sparse(temporary, model, at_least_two(material.images), values=values, about=material.about)
        module, _ = read_network(temporary)
        tolerance = None if values == "int8" else TOLERANCE if values == "float32" else 0.1
        results.append(compare(expected, by_torch(module), material.images, str(path), tolerance=tolerance))

    results: list[Agreement] = []
    write_atomically(path, write)
    return results[0]


def _shrunk_onnx(path: Path, material: Material) -> Agreement:
    write_onnx(path, material.shrunk.model, material.images)
    return _against_the_network(path, material)


def _against_the_network(path: Path, material: Material) -> Agreement:
    from hedgerow.engines.onnx_runtime import OnnxRuntime

    expected = expected_logits(material.model, material.images)
    return compare(expected, OnnxRuntime.load(path, 1), material.images, str(path), tolerance=TOLERANCE)


def _int8(path: Path, material: Material) -> Agreement:
    calibration, source = material.calibration, material.onnx
    return write_int8(path, material.model, material.images, calibration=calibration, source=source)


def _onnx(path: Path, material: Material) -> Agreement:
    agreed = write_onnx(path, material.model, material.images)
    material.onnx = path
    return agreed


_TABLE = {
    "sparse": Form(
        ".safetensors",
        "sparse",
        "its non-zeros, float32 bit for bit",
        lambda path, material: sparse_form(path, material.model, material, "float32"),
        smooth=True,
    ),
    "sparse-float16": Form(
        ".safetensors",
        "sparse",
        "its non-zeros, rounded to float16",
        lambda path, material: sparse_form(path, material.model, material, "float16"),
        exact=False,
        smooth=True,
    ),
    "sparse-int8": Form(
        ".safetensors",
        "sparse",
        "its non-zeros, rounded to int8 with a scale per channel",
        lambda path, material: sparse_form(path, material.model, material, "int8"),
        exact=False,
        smooth=True,
    ),
    "shrunk": Form(
        ".safetensors",
        "sparse",
        "without its dead channels, the rest by its non-zeros",
        lambda path, material: sparse_form(path, material.shrunk.model, material, "float32"),
        smooth=True,
    ),
    "onnx": Form(
        ".onnx",
        "onnxruntime",
        "ONNX float32, zeros included",
        _onnx,
    ),
    "shrunk-onnx": Form(".onnx", "onnxruntime", "ONNX float32 without its dead channels", _shrunk_onnx),
    "onnx-int8": Form(".onnx", "onnxruntime", "ONNX int8, calibrated on training images", _int8, exact=False),
    "torch-export": Form(
        ".pt2",
        "torch",
        "a program of PyTorch operations, zeros included",
        lambda path, material: write_program(path, material.model, material.images),
    ),
}
for _name, _form in _TABLE.items():
    FORMS.register(_name)(_form)
