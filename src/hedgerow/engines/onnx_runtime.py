"""ONNX Runtime on the CPU: the dense yardstick. It gains nothing from zeros among the weights."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from hedgerow.engines.base import ENGINES, Floats, Loaded, check_file
from hedgerow.errors import CheckpointError, MissingPackageError


@ENGINES.register("onnxruntime")
class OnnxRuntime:
    """ONNX Runtime, CPU provider, all its graph optimisations."""

    reads: ClassVar[tuple[str, ...]] = (".onnx",)

    @staticmethod
    def load(path: Path, threads: int) -> Loaded:
        """Return the network of an ONNX file with one input and one output."""
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise MissingPackageError("ONNX Runtime is not installed: pip install hedgerow[export]") from error
        check_file(path)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no common class
            first = str(error).strip().partition("\n")[0]
            raise CheckpointError(f"{path}: ONNX Runtime cannot load it: {first}") from error
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or not all(isinstance(n, int) for n in inputs[0].shape[1:]):
            raise CheckpointError(
                f"{path}: has {len(inputs)} inputs {[i.shape for i in inputs]} and {len(outputs)} outputs; "
                "expected one batch of images of a fixed size, and one of logits"
            )
        name, shape = inputs[0].name, inputs[0].shape

        def compute(images: Floats) -> Floats:
            logits: Floats = session.run(None, {name: images})[0]
            return logits

        return Loaded(path, tuple(shape[1:]), compute, shape[0] if isinstance(shape[0], int) else None)
