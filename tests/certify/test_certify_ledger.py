"""Kept evidence: killed and resumed, sharded and merged, grown, and never mistaken for another's."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from certify_cases import SMALL, HalfSpace, images

from hedgerow.certify import Ledger, Shard, Smoothing, gather
from hedgerow.errors import CertificationError, CheckpointError

IDENTITY = {"network": "abc", **SMALL.settings()}
ONE = dataclasses.replace(SMALL, n=500)


class Counting(HalfSpace):
    """Counts the images that it sees in voting, not in checks."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x) if len(x) > 8 else 0
        return super().forward(x)


def kept(folder: Path, shard: Shard | None = None, identity: dict[str, Any] | None = None) -> Ledger:
    return Ledger(folder, identity or IDENTITY, shard)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.jsonl"))}


def in_order(folder: Path) -> list[str]:
    """All lines of evidence, by position."""
    lines = [line for text in content(folder).values() for line in text.decode().splitlines()[1:]]
    return sorted(lines, key=lambda line: json.loads(line)["example"])


def test_kept_evidence_is_what_a_call_without_a_ledger_finds(tmp_path: Path) -> None:
    found = gather(HalfSpace(), images(7), SMALL, ledger=kept(tmp_path), batch_size=500)
    assert found == gather(HalfSpace(), images(7), SMALL, batch_size=500)
    assert {p: k.evidence for p, k in kept(tmp_path).read().items()} == found


@pytest.mark.parametrize("batch_size", [100, 500], ids=["one image a batch", "two images a batch"])
def test_a_stopped_call_goes_on_to_the_same_bytes(tmp_path: Path, batch_size: int) -> None:
    gather(HalfSpace(), images(9), SMALL, ledger=kept(tmp_path / "whole"), batch_size=batch_size)
    told: list[tuple[int, int]] = []
    for _ in range(20):
        found = gather(
            HalfSpace(),
            images(9),
            SMALL,
            ledger=kept(tmp_path / "parts"),
            batch_size=batch_size,
            progress=lambda done, total: told.append((done, total)),
            stop=lambda: True,
        )
        if len(found) == 9:
            break
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    step = batch_size // 220 or 1
    assert told[:4] == [(0, 9), (step, 9), (step, 9), (2 * step, 9)]
    assert told[-1] == (9, 9)


@pytest.mark.parametrize("cut", [1, 30, 200, 400])
def test_a_line_cut_short_by_a_crash_is_computed_again(tmp_path: Path, cut: int) -> None:
    gather(HalfSpace(), images(6), SMALL, ledger=kept(tmp_path / "whole"), batch_size=100)
    gather(HalfSpace(), images(6), SMALL, ledger=kept(tmp_path / "cut"), batch_size=100)
    (file,) = (tmp_path / "cut").rglob("*.jsonl")
    file.write_bytes(file.read_bytes()[:-cut])
    assert len(kept(tmp_path / "cut").read()) < 6
    gather(HalfSpace(), images(6), SMALL, ledger=kept(tmp_path / "cut"), batch_size=100)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_a_killed_process_loses_nothing_that_was_kept(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[2]); import test_certify_ledger as t\n"
        "t.gather(t.HalfSpace(), t.images(100), t.ONE, ledger=t.kept(pathlib.Path(sys.argv[1])), batch_size=50)"
    )
    folder = tmp_path / "killed"
    with subprocess.Popen([sys.executable, "-c", code, str(folder), str(Path(__file__).parent)]) as child:
        deadline = time.monotonic() + 60
        while sum(map(len, content(folder).values())) < 800 and time.monotonic() < deadline:
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    saved = kept(folder).read()
    assert 0 < len(saved) < 100
    model = Counting()
    gather(model, images(100), ONE, ledger=kept(folder), batch_size=50)
    assert model.seen == (100 - len(saved)) * 520
    gather(HalfSpace(), images(100), ONE, ledger=kept(tmp_path / "whole"), batch_size=50)
    assert content(folder) == content(tmp_path / "whole")


@pytest.mark.parametrize("batch_size", [100, 500])
@pytest.mark.parametrize("count", [2, 3, 12])
def test_shards_together_keep_the_same_evidence(tmp_path: Path, count: int, batch_size: int) -> None:
    whole = gather(HalfSpace(), images(9), SMALL, ledger=kept(tmp_path / "whole"), batch_size=batch_size)
    order = [*range(2, count + 1), 1]
    sizes = []
    for number in order:
        found = gather(
            HalfSpace(),
            images(9),
            SMALL,
            ledger=kept(tmp_path / "shards", Shard(number, count)),
            shard=Shard(number, count),
            batch_size=batch_size,
        )
        sizes.append(len(found))
    assert sizes == sorted(sizes)
    assert sizes[0] < 9
    assert found == whole
    assert list(found) == list(whole)
    assert in_order(tmp_path / "shards") == in_order(tmp_path / "whole")


def test_more_images_use_what_fewer_have_left(tmp_path: Path) -> None:
    gather(HalfSpace(), images(4)[:2], SMALL, positions=[1, 3], ledger=kept(tmp_path), batch_size=100)
    x = torch.stack([images(4)[2], images(4)[0], images(4)[3], images(4)[1]])
    model = Counting()
    found = gather(model, x, SMALL, positions=[0, 1, 2, 3], ledger=kept(tmp_path), batch_size=100)
    assert model.seen == 2 * 220
    assert found == gather(HalfSpace(), x, SMALL, positions=[0, 1, 2, 3], batch_size=100)


def test_a_finished_ledger_asks_the_network_nothing(tmp_path: Path) -> None:
    found = gather(HalfSpace(), images(3), SMALL, ledger=kept(tmp_path))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.jsonl")}

    class Silent(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise AssertionError("asked")

    assert gather(Silent(), images(3), SMALL, ledger=kept(tmp_path)) == found
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.jsonl")} == before


def test_evidence_of_another_network_or_setting_is_refused(tmp_path: Path) -> None:
    gather(HalfSpace(), images(2), SMALL, ledger=kept(tmp_path))
    for changes, words in (
        ({"sigma": 0.5}, r"sigma 0.25 \(asked: 0.5\)"),
        ({"network": "xyz"}, r"network 'abc' \(asked: 'xyz'\)"),
        ({"device": "cuda"}, r"device None \(asked: 'cuda'\)"),
    ):
        other = kept(tmp_path, identity={**IDENTITY, **changes})
        with pytest.raises(CheckpointError, match=f"is of another certification: {words}. Give another --out"):
            gather(HalfSpace(), images(2), SMALL, ledger=other)


def test_evidence_on_another_image_is_refused(tmp_path: Path) -> None:
    gather(HalfSpace(), images(3), SMALL, ledger=kept(tmp_path))
    changed = images(3)
    changed[1, 0, 2, 2] += 1e-3
    with pytest.raises(CheckpointError, match="another image at position 1: the data have changed"):
        gather(HalfSpace(), changed, SMALL, ledger=kept(tmp_path))


@pytest.mark.parametrize(
    "text", ["", "no json\n", "5\n", '{"a": 1}\n{"example": 1}\n', '{"a": 1}\n\n', "\x00\x01", '{"a": 1}\n7\n']
)
def test_an_altered_file_is_named(tmp_path: Path, text: str) -> None:
    ledger = kept(tmp_path, identity={"a": 1})
    ledger.file.parent.mkdir(parents=True)
    ledger.file.write_text(text)
    with pytest.raises(CheckpointError, match=r"evidence\.jsonl: not a file of evidence .*Delete it"):
        ledger.read()


def test_shards_are_written_as_part_of_parts() -> None:
    assert Shard.parse("2/4") == Shard(2, 4)
    assert str(Shard(2, 4)) == "2-of-4"
    for text in ("2", "a/b", "2/", "/2", "1/2/3", "-1/2", "1.5/2", ""):
        with pytest.raises(CertificationError, match="write PART/PARTS, such as 2/4"):
            Shard.parse(text)
    for text in ("0/4", "5/4", "0/0"):
        with pytest.raises(CertificationError, match="the parts are 1/"):
            Shard.parse(text)


def test_the_settings_of_a_ledger_are_plain_values() -> None:
    assert json.loads(json.dumps(Smoothing(sigma=0.25).settings())) == Smoothing(sigma=0.25).settings()
