"""The sparse runtime: a network computed from its non-zero weights alone."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from hedgerow.engines.base import ENGINES, Loaded


@ENGINES.register("sparse")
class SparseRuntime:
    """Hedgerow's own CPU runtime; needs no dense copy of a weight."""

    reads: ClassVar[tuple[str, ...]] = (".safetensors",)

    @staticmethod
    def load(path: Path, threads: int) -> Loaded:
        """Return the program of a sparse file; kernels are compiled on first use, and kept on disk."""
        from hedgerow.runtime import load

        program = load(path, threads=threads)
        return Loaded(path, tuple(program.network.shapes[0]), program.predict)
