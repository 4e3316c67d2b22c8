"""Whatever holds a network, as a function from images to logits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hedgerow.engines import ENGINES, Loaded
from hedgerow.engines.pytorch import by_torch
from hedgerow.errors import CheckpointError, DataError
from hedgerow.pipeline import dataset_of, model_of
from hedgerow.runfolder import RunFolder, load_weights

_ENGINES = {".onnx": "onnxruntime", ".pt2": "torch", ".safetensors": "torch"}


@dataclass(frozen=True)
class Predictor:
    """Images `[N, C, H, W]` float32 in [0,1] to logits `[N, classes]`; no gradients come back through it."""

    loaded: Loaded
    batch_size: int = 500

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits, computed in batches. Raises `DataError` for images of another shape or type."""
        if images.dtype != torch.float32 or not len(images):
            raise DataError(f"images are {images.dtype} {list(images.shape)}; expected float32, at least one")
        parts = torch.split(images.detach().cpu(), self.batch_size)
        return torch.cat([torch.from_numpy(self.loaded(part.numpy())) for part in parts])


def predictor(path: Path | str, *, engine: str | None = None, threads: int | None = None) -> Predictor:
    """Return the network of an `.onnx`, `.pt2` or sparse `.safetensors` file, or of a finished run folder.

    A file is run by the `engine` that is named, else by ONNX Runtime or PyTorch, as it ends; by as many `threads`
    as PyTorch has unless said. Raises `CheckpointError` for a path that holds no network that is known,
    `UnknownNameError` for an unknown engine, and `MissingPackageError`.
    """
    path = Path(path)
    if path.is_dir():
        return Predictor(_of_run(path))
    if engine is None and path.suffix not in _ENGINES:
        raise CheckpointError(
            f"{path}: files that end in {path.suffix or 'nothing'!r} are not known; give a run folder, or one of "
            f"{', '.join(_ENGINES)}"
        )
    chosen = ENGINES[engine or _ENGINES[path.suffix]]
    if path.suffix not in chosen.reads:
        raise CheckpointError(f"{path}: the engine {engine!r} reads {', '.join(chosen.reads)}")
    return Predictor(chosen.load(path, threads or torch.get_num_threads()))


def _of_run(path: Path) -> Loaded:
    folder = RunFolder(path)
    recipe = folder.read_recipe()
    if not folder.model.exists():
        raise CheckpointError(f"{path}: has no finished network yet: hedgerow resume {path}")
    data = dataset_of(recipe)
    model = model_of(recipe, data)
    load_weights(model, folder.model)
    return Loaded(path, (data.channels, *data.image_size), by_torch(model.eval()))
