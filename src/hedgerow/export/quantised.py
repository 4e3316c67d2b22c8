"""ONNX in 8 bits: weights and activations rounded, ranges taken from real images; the answers change."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hedgerow.engines.base import quiet
from hedgerow.engines.onnx_runtime import OnnxRuntime
from hedgerow.errors import DataError, ModelError
from hedgerow.export.agreement import Agreement, compare, expected_logits
from hedgerow.export.onnx_file import needed, write_onnx
from hedgerow.files import write_atomically

_BATCH = 32


def write_int8(
    path: Path, model: nn.Module, images: Tensor, *, calibration: Tensor, source: Path | None = None
) -> Agreement:
    """Write `model` as an ONNX file in int8 and return how well it agrees with the float32 network on `images`.

    ONNX Runtime's static quantisation: QDQ nodes, a scale per output channel of a weight and one per activation,
    from the smallest and largest values that the `calibration` images `[M, C, H, W]` (float32 in [0,1], real
    training images) give. `source` is the float32 ONNX file where there is one already.

    Raises what `write_onnx` raises, `DataError` for no calibration images, and `ModelError` for a network that
    ONNX Runtime cannot quantise. How far the answers move is stated, never refused.
    """
    needed()
    if not len(calibration) or calibration.shape[1:] != images.shape[1:] or calibration.dtype != torch.float32:
        raise DataError(
            f"calibration images are {calibration.dtype} {list(calibration.shape)}; expected float32 "
            f"[M, {', '.join(map(str, images.shape[1:]))}], at least one"
        )
    expected = expected_logits(model, images)
    with tempfile.TemporaryDirectory() as scratch:
        if source is None:
            source = Path(scratch) / "float32.onnx"
            write_onnx(source, model, images)
        prepared = Path(scratch) / "prepared.onnx"

        def write(temporary: Path) -> None:
            _quantise(source, prepared, temporary, calibration)
            loaded = OnnxRuntime.load(temporary, 1)
            results.append(compare(expected, loaded, images, str(path), tolerance=None))

        results: list[Agreement] = []
        write_atomically(path, write)
    return results[0]


def _quantise(source: Path, prepared: Path, target: Path, calibration: Tensor) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(CalibrationDataReader):  # type: ignore[misc]
        """Hands out the calibration images once."""

        def __init__(self) -> None:
            self.left = iter(torch.split(calibration, _BATCH))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.left, None)
            return None if batch is None else {"images": batch.numpy()}

    with quiet():
        try:
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                target,
                Batches(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # ONNX Runtime's errors have no common class
            first = str(error).strip().partition("\n")[0]
            raise ModelError(
                f"ONNX Runtime cannot quantise {source.name} ({type(error).__name__}: {first})"
            ) from error
