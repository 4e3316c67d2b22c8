"""Evidence kept image by image in files that survive being killed, and the work divided among processes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hedgerow.certify.base import Evidence
from hedgerow.errors import CertificationError, CheckpointError
from hedgerow.files import write_text

_FILE = "evidence.jsonl"


@dataclass(frozen=True)
class Shard:
    """One of `count` equal parts of the work, `number` from 1. Raises `CertificationError` for another number."""

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise CertificationError(f"shard {self.number}/{self.count}: the parts are 1/{self.count} and so on")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `2/4`."""
        if not re.fullmatch(r"[0-9]+/[0-9]+", text):
            raise CertificationError(f"shard {text!r}: write PART/PARTS, such as 2/4")
        number, _, count = text.partition("/")
        return cls(int(number), int(count))

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"


@dataclass(frozen=True)
class Kept:
    """The evidence on one image, and the fingerprint of the image that it is about."""

    image: str
    evidence: Evidence


class Ledger:
    """Evidence by position, one line of JSON each; a shard writes its own file and everyone reads all of them.

    The first line of a file is `identity`: the network and the settings that the evidence is of. Lines are
    appended and flushed to disk; one that a crash cut short is left out when reading, and removed before writing.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], shard: Shard | None = None) -> None:
        self.folder = folder
        self.identity = dict(identity)
        self.file = folder / str(shard or Shard()) / _FILE
        self._sound = False

    def read(self) -> dict[int, Kept]:
        """Return what all shards have found so far.

        Raises `CheckpointError` when a file is of another network or of other settings, or was altered.
        """
        found: dict[int, Kept] = {}
        for path in sorted(self.folder.glob(f"*/{_FILE}")):
            header, *rows = self._lines(path)
            self._check(header, path)
            for row in rows:
                found.setdefault(row["example"], Kept(row["image"], row["evidence"]))
        return found

    def add(self, rows: Mapping[int, Kept]) -> None:
        """Keep evidence for good: it is on disk when this returns."""
        if not self._sound:
            lines = self._lines(self.file) if self.file.exists() else [self.identity]
            write_text(self.file, "".join(json.dumps(line) + "\n" for line in lines))
            self._sound = True
        fresh = [
            {"example": position, "image": kept.image, "evidence": kept.evidence}
            for position, kept in rows.items()
        ]
        with self.file.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in fresh))
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def _lines(path: Path) -> list[dict[str, Any]]:
        try:
            *whole, _cut_short = path.read_text(encoding="utf-8").split("\n")
            lines = [json.loads(line) for line in whole]
            if not lines or not all(isinstance(line, dict) for line in lines):
                raise ValueError("it has no header, or lines that are no records")
            if not all({"example", "image", "evidence"} <= set(line) for line in lines[1:]):
                raise ValueError("a line is not evidence")
        except ValueError as error:
            raise CheckpointError(
                f"{path}: not a file of evidence ({error}); it was altered. Delete it, and it is computed again"
            ) from error
        return lines

    def _check(self, header: dict[str, Any], path: Path) -> None:
        if header == self.identity:
            return
        names = [name for name in {**self.identity, **header} if header.get(name) != self.identity.get(name)]
        words = [f"{name} {header.get(name)!r} (asked: {self.identity.get(name)!r})" for name in names]
        raise CheckpointError(
            f"{path}: is of another certification: {', '.join(words)}. Give another --out, or delete that folder"
        )
