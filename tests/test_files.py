"""Files are whole or absent, and what is broken or hostile is refused by name."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from hedgerow.errors import CheckpointError
from hedgerow.files import (
    load_checkpoint,
    read_tensors,
    save_checkpoint,
    write_atomically,
    write_json,
    write_tensors,
    write_text,
)


def half_written(path: Path) -> None:
    path.write_text("ha")
    raise OSError("disk full")


@pytest.mark.parametrize("before", ["the old text", None])
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "file.txt"
    if before is not None:
        path.write_text(before)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, half_written)
    assert [p.name for p in tmp_path.iterdir()] == ([] if before is None else ["file.txt"])
    assert before is None or path.read_text() == before


def test_a_writer_that_writes_nothing_is_an_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = write_text(tmp_path / "file.txt", "old")
    with pytest.raises(FileNotFoundError):
        write_atomically(path, lambda p: None)
    assert path.read_text() == "old"


def test_the_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = write_text(tmp_path / "file.txt", "old")

    def write(temporary: Path) -> None:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # a rename across disks would not be atomic

    write_atomically(path, write)
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_folders_are_made(tmp_path: Path) -> None:
    assert write_text(tmp_path / "a" / "b" / "c.txt", "é").read_text(encoding="utf-8") == "é"


def test_json_refuses_what_other_readers_would(tmp_path: Path) -> None:
    path = write_json(tmp_path / "x.json", {"a": [1, 0.5]})
    assert json.loads(path.read_text()) == {"a": [1, 0.5]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": [1, 0.5]}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    tensors = {"turned": base.t(), "part": base[1:], "same": base, "bits": torch.tensor([0, 1], dtype=torch.uint8)}
    write_tensors(tmp_path / "x.safetensors", {**tensors, "learned": base.clone().requires_grad_()}, {"who": "me"})
    found, metadata = read_tensors(tmp_path / "x.safetensors")
    assert metadata == {"who": "me"}
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert torch.equal(found["learned"], base)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_tensors_cut_short_are_named(tmp_path: Path, share: float) -> None:
    path = write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"x\.safetensors: not a whole safetensors file .*Delete it"):
        read_tensors(path)


def test_tensors_that_are_not_there_or_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.safetensors: no such file"):
        read_tensors(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError):
        read_tensors(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.99])
def test_a_checkpoint_cut_short_is_named(tmp_path: Path, share: float) -> None:
    path = save_checkpoint(tmp_path / "x.pt", {"a": torch.zeros(1000), "b": {"c": [1, 2.5, "d"]}})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"x\.pt: the checkpoint cannot be read .*Delete it and resume"):
        load_checkpoint(path)


def test_a_checkpoint_comes_back_exactly(tmp_path: Path) -> None:
    state = {"a": torch.tensor([1e-30, -0.0, 3.1]), "b": {"c": [1, 0.1, "d", None, True]}}
    found = load_checkpoint(save_checkpoint(tmp_path / "x.pt", state))
    assert found["a"].numpy().tobytes() == state["a"].numpy().tobytes()  # type: ignore[attr-defined]
    assert found["b"] == state["b"]


class Hostile:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["torch", "legacy torch", "plain pickle"])
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path, how: str) -> None:
    path, trace = tmp_path / "evil.pt", tmp_path / "trace"
    if how == "plain pickle":
        path.write_bytes(pickle.dumps({"model": Hostile(trace)}, protocol=2))
    else:
        torch.save({"model": Hostile(trace)}, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(CheckpointError, match=r"evil\.pt: the checkpoint cannot be read"):
        load_checkpoint(path)
    assert not trace.exists()


def test_a_checkpoint_that_is_missing_or_holds_something_else(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.pt: no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pt")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(CheckpointError, match="holds a Tensor, not a checkpoint"):
        load_checkpoint(tmp_path / "tensor.pt")
