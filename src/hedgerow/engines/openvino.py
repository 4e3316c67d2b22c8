"""OpenVINO on the CPU: on many processors the fastest dense engine.

Of no extra of this package: name it in full, `hedgerow.engines.openvino:OpenVino`, where it is installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from hedgerow.engines.base import Floats, Loaded, check_file
from hedgerow.errors import CheckpointError, MissingPackageError


class OpenVino:
    """OpenVINO, CPU device, in float32: left alone it takes bf16 where there is such, and changes answers."""

    reads: ClassVar[tuple[str, ...]] = (".onnx",)

    @staticmethod
    def load(path: Path, threads: int) -> Loaded:
        """Return the network of an ONNX file with one input and one output."""
        try:
            import openvino
        except ImportError as error:
            raise MissingPackageError("OpenVINO is not installed: pip install openvino") from error
        check_file(path)
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        except Exception as error:  # OpenVINO's errors have no common class
            first = str(error).strip().partition("\n")[0]
            raise CheckpointError(f"{path}: OpenVINO cannot load it: {first}") from error
        (given,), (made,) = compiled.inputs, compiled.outputs
        shape = given.partial_shape
        sizes = tuple(axis.get_length() for axis in list(shape)[1:])
        batch = shape[0].get_length() if shape[0].is_static else None

        def compute(images: Floats) -> Floats:
            logits: Floats = compiled([images])[made]
            return logits

        return Loaded(path, sizes, compute, batch)
