"""What an attack is told of a model for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar
from weakref import WeakKeyDictionary

from torch import nn

T = TypeVar("T")


@contextmanager
def known(table: WeakKeyDictionary[nn.Module, T], model: nn.Module, value: T) -> Iterator[None]:
    """Let `table` have `value` for `model` inside; afterwards what it had before, or nothing."""
    before = table.get(model)
    table[model] = value
    try:
        yield
    finally:
        table.pop(model)
        if before is not None:
            table[model] = before
