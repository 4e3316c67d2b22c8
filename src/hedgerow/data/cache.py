"""Decoded images kept on disk, so that a folder is decoded once and not on every start."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable

from torch import Tensor

from hedgerow.errors import CheckpointError
from hedgerow.files import cache_folder, read_tensors, write_tensors

FORMAT = 1  # raise it when decoding changes: older files are then made again


def cached_tensors(identity: object, listing: object, build: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return what `build` makes, from the cache when `identity` and `listing` are those of the last time.

    `identity` (what is read, with which options) names the file and `listing` (the state of what is read)
    must match its content, so that a folder that changes replaces its cache file instead of adding one. Both
    are anything JSON can write. A broken file is made again; one that cannot be written is only a warning.
    """
    file = cache_folder() / f"{_digest(identity)[:24]}.safetensors"
    key = _digest([FORMAT, identity, listing])
    try:
        tensors, metadata = read_tensors(file)
        if metadata.get("key") == key:
            return tensors
    except CheckpointError:
        pass  # absent or broken: made again below
    tensors = build()
    try:
        write_tensors(file, tensors, {"key": key})
    except Exception as error:  # a full or read-only disk must not stop a run that has its images
        warnings.warn(
            f"{file}: the decoded images cannot be kept ({error}) and will be decoded again next time; "
            "set HEDGEROW_CACHE to a folder with room",
            stacklevel=2,
        )
    return tensors


def _digest(value: object) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=32).hexdigest()
