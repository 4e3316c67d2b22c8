"""torch.export: the network as a program of PyTorch operations, without its Python code."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor, nn

from hedgerow.engines.base import quiet
from hedgerow.engines.pytorch import read_program
from hedgerow.errors import ModelError
from hedgerow.export.agreement import TOLERANCE, Agreement, compare, expected_logits
from hedgerow.export.onnx_file import at_least_two
from hedgerow.files import write_atomically
from hedgerow.tracing import plain_weights, undisturbed


def write_program(path: Path, model: nn.Module, images: Tensor) -> Agreement:
    """Write `model` as a `.pt2` program, load it again, and return how well it agrees on `images`.

    `images` `[N, C, H, W]` are real ones, float32 in [0,1]; the program takes any batch of such images. Nothing is
    written when the two disagree. Raises `ModelError` for a model that torch.export refuses, and what
    `expected_logits` raises.
    """
    if path.suffix != ".pt2":
        raise ModelError(f"{path}: PyTorch reads programs from files that end in .pt2")
    expected = expected_logits(model, images)
    buffer = io.BytesIO()
    with undisturbed(model, images.device), plain_weights(model), torch.no_grad(), quiet():
        batch = torch.export.Dim("batch")
        try:
            program = torch.export.export(model, (at_least_two(images),), dynamic_shapes=({0: batch},))
            torch.export.save(program, buffer)
        except Exception as error:  # whatever the user's forward pass makes of symbolic shapes
            first = str(error).strip().partition("\n")[0]
            raise ModelError(
                f"{type(model).__name__} cannot be a torch.export program ({type(error).__name__}: {first})"
            ) from error

    def write(temporary: Path) -> None:
        temporary.write_bytes(buffer.getvalue())
        results.append(compare(expected, read_program(temporary), images, str(path), tolerance=TOLERANCE))

    results: list[Agreement] = []
    write_atomically(path, write)
    return results[0]
