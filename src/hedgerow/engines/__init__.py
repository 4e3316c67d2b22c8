"""What runs a file: PyTorch, ONNX Runtime, the sparse runtime; each library loaded only when it is asked for."""

from hedgerow.engines import onnx_runtime, pytorch, sparse
from hedgerow.engines.base import ENGINES, Engine, Loaded

__all__ = ["ENGINES", "Engine", "Loaded", "onnx_runtime", "pytorch", "sparse"]
