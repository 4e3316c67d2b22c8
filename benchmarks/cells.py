"""A file of measurements that can be stopped and gone on with: every cell is in it as soon as it is measured."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hedgerow.doctor import this_machine
from hedgerow.files import write_json

Cell = dict[str, Any]


class Cells:
    """The cells of one JSON file, by name, each with the machine and the command that measured it.

    A cell's name says everything that its numbers depend on but the machine, so that a cell that is there is not
    measured again; `about` says what holds for all. `timed`: cells are times, and all must be of one machine.
    """

    def __init__(self, path: Path, about: str, *, timed: bool = False) -> None:
        self.path = path
        self.record: dict[str, Any] = {"about": about, "cells": {}}
        if path.exists():
            self.record |= json.loads(path.read_text(encoding="utf-8"))
            self.record["about"] = about
        others = [
            name for name, cell in self.record["cells"].items() if timed and _kind(cell["machine"]) != _here()
        ]
        if others:
            raise SystemExit(f"{path} has times of another machine ({others[0]}); choose another --out")

    def get(self, name: str, measure: Callable[[], Cell]) -> Cell:
        """Return a cell, measured now and written if it is not there yet."""
        cells = self.record["cells"]
        if name not in cells:
            print(f"{name} ...", file=sys.stderr, flush=True)
            cells[name] = {**measure(), "machine": this_machine(), "command": shlex.join(["python", *sys.argv])}
            self.write()
        return cells[name]  # type: ignore[no-any-return]

    def write(self, **further: Any) -> None:
        """Write the file, with what was made of the cells under names of its own."""
        self.record |= further
        write_json(self.path, self.record)


def held(field: str) -> int:
    """Return a number of bytes of /proc/self/status: `VmRSS` (now) or `VmHWM` (at most so far), Linux."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def forget_peak() -> None:
    """Put the mark of the most that was held back to what is held now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _here() -> dict[str, Any]:
    return _kind(this_machine())


def _kind(machine: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in machine.items() if key != "threads"}
