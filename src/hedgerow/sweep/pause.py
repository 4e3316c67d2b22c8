"""The folder of a sweep: held by one driver at a time, and told to pause by a file in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hedgerow.errors import CheckpointError
from hedgerow.files import write_text
from hedgerow.runfolder import one_writer

PAUSE = "PAUSE"
_COMMAND = "sweep-command.txt"


@contextmanager
def sweep_folder(path: Path, command: str) -> Iterator[Callable[[], bool]]:
    """Hold the folder for this driver; yield what says whether it was asked to pause since.

    An older request is over by then: who gives the command again wants to go on.
    """
    with one_writer(path):
        write_text(path / _COMMAND, command + "\n")
        (path / PAUSE).unlink(missing_ok=True)
        yield (path / PAUSE).exists


def ask_to_pause(path: Path) -> str:
    """Ask the sweep in this folder to pause; return the command that goes on with it.

    `CheckpointError` when no sweep was ever started there.
    """
    file = path / _COMMAND
    if not file.exists():
        raise CheckpointError(f"{path}: not the folder of a sweep (it has no {_COMMAND})")
    write_text(path / PAUSE, "")
    return file.read_text(encoding="utf-8").strip()
