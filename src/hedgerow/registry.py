"""Names for interchangeable parts: models, objectives, pruners, data sources.

A part registers itself under its published name; a room imports every file of its folder, so that adding a
part is adding a file. Anything importable also goes by `package.module:attribute`.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from hedgerow.errors import HedgerowError

T = TypeVar("T")


class UnknownNameError(HedgerowError):
    """No part goes by this name; the message lists the known ones and the nearest spelling."""


def nearest(word: str, known: list[str]) -> str:
    """Return `; did you mean 'x'?` for the known word closest to `word`, or just a full stop."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else "."


class Registry(Generic[T]):
    """An ordered table of named parts of one kind, each with a one-line summary."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._parts: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that files its argument under `name`; a name taken twice is an error."""

        def file(part: T) -> T:
            if name in self._parts and self._parts[name] is not part:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._parts[name] = part
            return part

        return file

    def __getitem__(self, name: str) -> T:
        if name in self._parts:
            return self._parts[name]
        if ":" in name:
            return load_attribute(name, kind=self.kind)  # type: ignore[no-any-return]
        known = list(self)
        raise UnknownNameError(
            f"unknown {self.kind} {name!r}{nearest(name, known)} Known: {', '.join(known)}, "
            "or package.module:name of your own"
        )

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._parts))

    def summary(self, name: str) -> str:
        """Return the first line of the part's docstring."""
        return (self._parts[name].__doc__ or "").strip().partition("\n")[0]


def load_attribute(path: str, *, kind: str = "object") -> Any:
    """Import `package.module:attribute` (the working directory is searched too).

    Raises `UnknownNameError` naming the half that does not exist.
    """
    module_name, _, attribute = path.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UnknownNameError(
            f"{kind} {path!r}: cannot import module {module_name!r} ({error}). Give package.module:name, with "
            "the package installed or the module in the working directory"
        ) from error
    except Exception as error:  # whatever the user's module does when it is imported
        raise UnknownNameError(
            f"{kind} {path!r}: importing its module raised {type(error).__name__}: {error}. Make the module "
            "importable by itself first"
        ) from error
    found = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [n for n in vars(found) if not n.startswith("_")]
            raise UnknownNameError(
                f"{kind} {path!r}: module {module_name!r} has no {part!r}{nearest(part, public)}"
            )
        found = getattr(found, part)
    return found


def import_folder(package: str, paths: list[str]) -> None:
    """Import every module of a package folder, so that its parts register themselves."""
    for module in pkgutil.iter_modules(paths):
        importlib.import_module(f"{package}.{module.name}")
