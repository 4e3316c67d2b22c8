"""ONNX: the form that most runtimes read."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from hedgerow.engines.base import quiet
from hedgerow.engines.onnx_runtime import OnnxRuntime
from hedgerow.errors import MissingPackageError, ModelError
from hedgerow.export.agreement import TOLERANCE, Agreement, compare, expected_logits
from hedgerow.files import write_atomically
from hedgerow.tracing import plain_weights, undisturbed

OPSET = 20
_MOST_BYTES = 2**31 - 2**20  # a file of protocol buffers ends at 2 GiB


def write_onnx(path: Path, model: nn.Module, images: Tensor) -> Agreement:
    """Write `model` as one ONNX file of opset 20 and return how well ONNX Runtime agrees with PyTorch on `images`.

    `images` `[N, C, H, W]` are real ones, float32 in [0,1]. The file takes any batch of such images as `images`
    and gives `logits`; normalisation is part of it, masks are applied. Nothing is written when the two disagree.

    Raises `ModelError` that names the operation for one that ONNX does not have, `MissingPackageError` without the
    packages of `hedgerow[export]`, and what `expected_logits` raises.
    """
    needed()
    expected = expected_logits(model, images)
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    if size > _MOST_BYTES:
        raise ModelError(f"{type(model).__name__} has {size:,} bytes of weights; one ONNX file holds 2 GiB")
    with undisturbed(model, images.device), plain_weights(model), torch.no_grad(), quiet():
        try:
            program = cast(
                torch.onnx.ONNXProgram,
                torch.onnx.export(
                    model,
                    (at_least_two(images),),
                    dynamo=True,
                    opset_version=OPSET,
                    input_names=["images"],
                    output_names=["logits"],
                    dynamic_shapes=({0: torch.export.Dim("batch")},),
                    verbose=False,
                ),
            )
        except Exception as error:  # the exporter's errors have no useful common class
            raise ModelError(f"{type(model).__name__} cannot be an ONNX file: {_reason(error)}") from error
    program.model.metadata_props["hedgerow"] = "images in [0,1], normalisation inside"

    def write(temporary: Path) -> None:
        program.save(str(temporary), external_data=False)
        results.append(compare(expected, OnnxRuntime.load(temporary, 1), images, str(path), tolerance=TOLERANCE))

    results: list[Agreement] = []
    write_atomically(path, write)
    return results[0]


def needed(*more: str) -> None:
    """Raise `MissingPackageError` that names each package of `hedgerow[export]` that is not there."""
    absent = []
    for name in ("onnx", "onnxscript", "onnxruntime", *more):
        try:
            importlib.import_module(name)
        except ImportError:
            absent.append(name)
    if absent:
        raise MissingPackageError(f"ONNX files need {', '.join(absent)}: pip install hedgerow[export]")


def at_least_two(images: Tensor) -> Tensor:
    """Return two of the images: a program traced on a single one may hold that there is one."""
    return images[:2] if len(images) > 1 else images.repeat(2, *[1] * (images.dim() - 1))


def _reason(error: BaseException) -> str:
    """Return the operation that is at fault, where the exporter's pages of text name one, or its first line."""
    text = "\n".join(str(e) for e in _chain(error))
    missing = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", text)
    if missing:
        return f"ONNX has no operation for {missing[1]}"
    root = list(_chain(error))[-1]
    return f"{type(root).__name__}: {str(root).strip().partition(chr(10))[0]}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    while True:
        yield error
        if error.__cause__ is None:
            return
        error = error.__cause__
