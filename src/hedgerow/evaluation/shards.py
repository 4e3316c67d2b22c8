"""One evaluation divided among processes and over time: whose batches, how many fit, what is still missing."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hedgerow.certify import Shard
from hedgerow.errors import HedgerowError, RecipeError

SAMPLED_BATCH = 50
"""Images in a batch of an evaluation with a time budget, at most: it stops between two of them."""

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


class UnfinishedError(HedgerowError):
    """Batches are missing that other shards compute, or another call of this one."""

    def __init__(self, known: int, total: int) -> None:
        self.known, self.total = known, total
        super().__init__(
            f"{known:,} of {total:,} images done; go on with the same command, or the other shards; the one that "
            "finishes last merges"
        )


@dataclass(frozen=True)
class Budget:
    """So many seconds from now on; `text` is as the user wrote it. Raises `RecipeError` for no time at all."""

    seconds: float
    text: str
    since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise RecipeError("command line", [f"--budget {self.text}: give a time above 0, such as 10m"])

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `10m`, `90s`, `1.5h` or `1h30m`."""
        parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)([hms])", text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise RecipeError("command line", [f"--budget {text}: write a time such as 90s, 10m or 1h30m"])
        return cls(sum(float(number) * _UNITS[unit] for number, unit in parts), text)

    def fits(self, seconds: float) -> bool:
        """Return whether so many more seconds are left."""
        return time.monotonic() + seconds <= self.since + self.seconds


@dataclass(frozen=True)
class Share:
    """What one call of an evaluation does of its batches: those of its shard, as many as fit into its budget.

    A batch is made of the same images, with the same seed, whoever computes it and however fast: the time decides
    how many batches there are, and never what one of them holds.
    """

    shard: Shard = field(default_factory=Shard)
    budget: Budget | None = None

    def carry_out(self, count: int, kept: Callable[[int], bool], compute: Callable[[int], object]) -> list[int]:
        """Compute what is missing of this share of `count` batches; return the numbers of all that are kept then.

        With a budget it stops before a batch that would not fit, going by those before it; the first batch of
        all is computed in any case.
        """
        known = {number for number in range(count) if kept(number)}
        times: list[float] = []
        for number in range(count)[self.shard.number - 1 :: self.shard.count]:
            if number in known:
                continue
            likely = sum(times) / len(times) if times else 0.0
            if self.budget and known and not self.budget.fits(likely):
                break
            before = time.monotonic()
            compute(number)
            times.append(time.monotonic() - before)
            known.add(number)
        return [number for number in range(count) if number in known or kept(number)]
