"""Files that are either whole or absent: write beside, flush, rename."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hedgerow.errors import CheckpointError
from hedgerow.team import team


def cache_folder() -> Path:
    """Return `$HEDGEROW_CACHE`, or `~/.cache/hedgerow`: for what is made again when it is not there."""
    return Path(os.environ.get("HEDGEROW_CACHE") or "~/.cache/hedgerow").expanduser()


def write_atomically(path: Path, write: Callable[[Path], object], *, everyone: bool = False) -> Path:
    """Call `write` on a neighbouring temporary file, flush it to disk and rename it to `path`.

    Of several processes that work on one run the first writes, the others do nothing.
    """
    if not (everyone or team().first):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a text file atomically (UTF-8)."""
    return write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> Path:
    """Write JSON atomically; NaN and infinity are refused, since no other reader takes them."""
    return write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None, *, everyone: bool = False
) -> Path:
    """Write tensors as safetensors, atomically. Tensors are copied to plain contiguous CPU memory first.

    Of several processes only the first writes, unless `everyone` does, each its own file.
    """
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    return write_atomically(path, lambda p: save_file(plain, p, metadata=metadata), everyone=everyone)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file; `CheckpointError` if missing or broken."""
    try:
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; expected a safetensors file") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({error}); it was cut short or is another format. "
            "Delete it, and make it again or resume the run that writes it"
        ) from error


def fingerprint(tensors: Iterable[Tensor], text: str = "") -> str:
    """Return 32 hexadecimal digits that change with any byte of the tensors or of `text`."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for tensor in tensors:
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(path: Path, state: dict[str, Any]) -> Path:
    """Save tensors, numbers, strings, lists and dicts with `torch.save`, atomically."""
    return write_atomically(path, lambda p: torch.save(state, p))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load what `save_checkpoint` wrote, executing nothing; `CheckpointError` if missing, cut short or altered."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path}: the checkpoint cannot be read ({type(error).__name__}: {first_line}); it was cut short or "
            "altered. Delete it and resume: the run goes on from the checkpoint before it"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a checkpoint of this toolkit")
    return state
