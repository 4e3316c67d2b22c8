"""The command `sweep` and `resume --train-only`: good words, and one clear message for bad ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import sweep_cases
import yaml
from sweep_cases import InProcess

from hedgerow.runfolder import RunFolder
from hedgerow.sweep.pause import PAUSE

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs `hedgerow WORDS` in an empty folder, its cells in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hedgerow.executors.Local", lambda jobs, command: InProcess(jobs))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(copy.deepcopy(sweep_cases.RAW)), encoding="utf-8")
    return command


def test_a_grid_is_swept_paused_and_gone_on_with(command: Command, tmp_path: Path) -> None:
    words = ["sweep", "tiny.yaml", "--grid", "pruning.method=magnitude", "--grid", "pruning.sparsity=0.5"]
    folder = tmp_path / "runs" / "sweep-tiny"
    code, out, err = command(*words)
    assert code == 0
    assert "| magnitude | 50 % |" in out
    assert out.endswith("table: runs/sweep-tiny/summary.md\npage: runs/sweep-tiny/report.html\n")
    assert "[2/2] seed-0/magnitude-0.5 finished" in err
    assert (folder / "report.html").exists()
    code, out, _ = command("sweep", "--pause", folder)
    assert (code, out) == (0, f"pausing; go on with: hedgerow {' '.join(words)}\n")
    assert (folder / PAUSE).exists()


def test_a_pause_ends_with_what_to_do(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hedgerow.sweep.grids.carry_out", lambda *_, paused, **__: interrupt(paused))

    def interrupt(paused: Callable[[], bool]) -> None:
        assert not paused()
        raise KeyboardInterrupt

    code, _, err = command("sweep", "tiny.yaml", "--grid", "pruning.sparsity=0.5")
    assert code == 130
    assert "stopped; nothing finished is lost. Go on with: the same command" in err


def test_a_search_ends_with_its_table_and_the_page_of_the_best(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    code, out, err = command(
        "sweep", "tiny.yaml", "--search", "phases.prune.lr=0.1,0.2", "--trials", "2", "--out", "s"
    )
    assert code == 0
    assert "| trial | phases.prune.lr | clean | robust |" in out
    assert out.count("(best)") == 1
    assert "it is evaluated on test images" in err
    assert (tmp_path / "s" / "report.html").exists()


def test_training_alone_looks_at_no_test_image(command: Command, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open(sweep_cases.recipe())
    code, _, err = command("resume", "run", "--train-only")
    assert code == 0
    assert "tiny on validation images: clean " in err
    assert folder.validation.exists()
    assert not folder.result.exists()
    assert not folder.evaluation.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a RECIPE to sweep, or --pause DIR"),
        (["--pause", "nowhere"], "nowhere: not the folder of a sweep"),
        (["tiny.yaml"], "nothing to sweep: give --grid KEY=VALUE,VALUE, or --search"),
        (["tiny.yaml", "--grid", "a"], "--grid a: expected KEY=VALUES"),
        (["tiny.yaml", "--search", "a=1"], "--search a=1: one value is no choice"),
        (["tiny.yaml", "--search", "seed=0:1", "--seeds", "2"], "--search takes the recipe's seed and no --grid"),
        (["tiny.yaml", "--search", "a=0:1", "--grid", "b=1"], "--search takes the recipe's seed and no --grid"),
        (["tiny.yaml", "--executor", "slurm"], "--executor slurm: choose one of local, ray"),
        (["tiny.yaml", "--gpus", "0.5"], "--address, --cpus and --gpus are for --executor ray"),
        (["tiny.yaml", "--executor", "ray", "--cpus", "0"], "both from 0 on, and one of them above 0"),
    ],
)
def test_bad_words_are_refused(command: Command, words: list[str], message: str) -> None:
    code, out, err = command("sweep", *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
