"""Where images come from: each file here registers its sources, so that adding one is adding a file.

A source is a function of keyword arguments only (`path` for what it reads from disk, and its own options)
that returns `Raw`. The first line of its docstring is its summary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hedgerow.data.streamed import AnySplit
from hedgerow.registry import Registry, import_folder


@dataclass(frozen=True, eq=False)
class Raw:
    """What a source holds: its own training and test images, all of them, and the class names in label order."""

    label: str
    classes: tuple[str, ...]
    train: AnySplit
    test: AnySplit


SOURCES: Registry[Callable[..., Raw]] = Registry("data source")

# Last, since the files import the two names above from here.
import_folder(__name__, list(__path__))

__all__ = ["SOURCES", "Raw"]
