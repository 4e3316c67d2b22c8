"""Shares of one evaluation: whatever the division and the speed, the same verdicts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hedgerow.certify import Shard
from hedgerow.errors import CertificationError, DataError, RecipeError
from hedgerow.evaluation import Budget, Evaluated, Protocol, Share, UnfinishedError, evaluate
from hedgerow.evaluation import shards as module
from hedgerow.files import read_tensors

N, SIZE, CHUNKS = 50, 8, 7
PROTOCOL = Protocol(pgd_steps=3, pgd_restarts=1, autoattack=False, batch_size=SIZE, integrity=10)
Do = Callable[..., Evaluated]


@pytest.fixture
def do(trained: Any, tmp_path: Path) -> Do:
    def call(share: Share | None = None, folder: str = "kept", **changes: Any) -> Evaluated:
        options = {"threat": trained.threat, "protocol": PROTOCOL, "folder": tmp_path / folder, **changes}
        return evaluate(trained.model, trained.x[:N], trained.y[:N], share=share, **options)

    return call


def plain(found: Evaluated) -> dict[str, Any]:
    record = found.record.model_dump()
    for measure in record["measures"].values():
        del measure["seconds"]
    return record


def clock(monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    """Let every look at the clock cost `step` seconds."""
    ticks = itertools.count(0.0, step)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(ticks)))


@pytest.mark.parametrize("count", [3, 9])
def test_shards_in_any_order_merge_to_the_unsharded_bytes(do: Do, tmp_path: Path, count: int) -> None:
    whole = do(folder="whole")
    for number in range(count, 1, -1):
        with pytest.raises(UnfinishedError, match=f"of {N} images done; go on with the same command"):
            do(Share(Shard(number, count)))
    merged = do(Share(Shard(1, count)))
    assert plain(merged) == plain(whole)
    assert torch.equal(merged.adversarial, whole.adversarial)
    for number in range(CHUNKS):
        name = f"chunk-{number:04d}.safetensors"
        (one, its), (other, theirs) = (read_tensors(tmp_path / folder / name) for folder in ("kept", "whole"))
        assert its == theirs
        assert all(torch.equal(one[key], other[key]) for key in {*one, *other} - {"seconds"})
    assert plain(do(Share(Shard(count, count)))) == plain(whole)  # whoever comes again merges too


def test_a_shard_says_how_many_images_are_known_to_all(do: Do) -> None:
    with pytest.raises(UnfinishedError) as caught:
        do(Share(Shard(2, 2)))
    assert (caught.value.known, caught.value.total) == (3 * SIZE, N)
    with pytest.raises(UnfinishedError) as caught:
        do(Share(Shard(9, 9)))  # has no batch of its own
    assert caught.value.known == 3 * SIZE


def test_a_budget_takes_the_batches_that_fit_and_gives_them_the_same_verdicts(
    do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = plain(do(folder="whole"))
    clock(monkeypatch, 1.0)  # a batch takes a second, and every question whether one fits another
    found = do(Share(budget=Budget(6.5, "6.5s", since=0.0)))
    monkeypatch.undo()
    record = plain(found)
    count = len(record["examples"])
    assert 0 < count < N
    assert count % SIZE == 0
    assert record["examples"] == list(range(count))
    assert record["verdicts"] == whole["verdicts"][:count]
    assert all(measure["n"] == count for measure in record["measures"].values())
    assert {check["outcome"] for check in record["checks"].values()} <= {"pass", "warn"}
    assert plain(do(Share(budget=Budget(3600, "1h")))) == whole  # goes on, to the end


def test_a_budget_that_is_spent_gives_one_batch_and_then_no_more(do: Do) -> None:
    spent = Share(budget=Budget(1e-9, "1s", since=time.monotonic() - 10))
    assert do(spent).record.examples == list(range(SIZE))
    assert do(spent).record.examples == list(range(SIZE))


def test_a_budget_and_shards_go_together(do: Do) -> None:
    whole = plain(do(folder="whole"))
    spent = Budget(1e-9, "1s", since=time.monotonic() - 10)
    do(Share(Shard(3, 3), spent))
    found = plain(do(Share(Shard(1, 3), Budget(3600, "1h"))))
    numbers = [0, 2, 3, 6]
    places = [i for n in numbers for i in range(n * SIZE, min((n + 1) * SIZE, N))]
    assert found["examples"] == places
    assert found["verdicts"] == [whole["verdicts"][i] for i in places]
    assert found["measures"]["pgd"]["n"] == len(places)


def test_a_share_needs_a_folder(trained: Any) -> None:
    with pytest.raises(DataError, match="a share of an evaluation needs a folder"):
        evaluate(trained.model, trained.x[:4], trained.y[:4], threat=trained.threat, share=Share())


@pytest.mark.parametrize(
    ("text", "seconds"), [("10m", 600), ("90s", 90), ("2h", 7200), ("1h30m", 5400), ("0.5m", 30), ("1m1s", 61)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert Budget.parse(text).seconds == seconds


@pytest.mark.parametrize("text", ["10", "m", "10 m", "-3m", "10d", "", "1m2"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="write a time such as 90s, 10m or 1h30m"):
        Budget.parse(text)


def test_no_time_at_all_is_refused() -> None:
    with pytest.raises(RecipeError, match="--budget 0m: give a time above 0"):
        Budget.parse("0m")
    with pytest.raises(CertificationError, match="shard 3/2"):
        Shard.parse("3/2")
