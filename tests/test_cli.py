"""The command line: instant help, one clear message and exit code 2 for every bad input, thin good commands."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from hedgerow.cli import parse_changes
from hedgerow.errors import RecipeError
from hedgerow.recipe import parse_recipe, shipped_recipes
from hedgerow.runfolder import RunFolder

Command = Callable[..., tuple[int, str, str]]

RAW: dict[str, Any] = {
    "name": "tiny",
    "device": "cpu",
    "data": {"train_limit": 100, "test_limit": 20},
    "objective": {"name": "natural"},
    "pruning": {"method": "magnitude", "sparsity": 0.5},
    "phases": {"pretrain": {"epochs": 1}, "prune": {"epochs": 1}, "finetune": {"epochs": 1}},
    "evaluation": {"examples": 5, "pgd_steps": 1, "pgd_restarts": 1, "autoattack": False, "gallery": 2},
}


@pytest.fixture
def command(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs `hedgerow WORDS` in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEDGEROW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return command


@pytest.fixture
def refused(command: Command) -> Callable[..., str]:
    """Return a function that runs a command which must be refused, and gives its message."""

    def call(*words: object) -> str:
        code, out, err = command(*words)
        assert code == 2, (out, err)
        assert out == ""
        assert err.startswith("error: ")
        assert "Traceback" not in err
        return err

    return call


def recipe_file(tmp_path: Path, **sections: Any) -> Path:
    raw = copy.deepcopy(RAW)
    for name, values in sections.items():
        raw[name] = {**raw.get(name, {}), **values}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["evaluate", "--help"], []])
def test_help_is_instant_it_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys, hedgerow.cli as cli\n"
        f"sys.argv = ['hedgerow', *{words!r}]\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'lightning_fabric', 'matplotlib', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    assert "Usage" in done.stdout


def test_the_module_is_the_command(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "hedgerow", "resume", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path}: not a run folder (it has no recipe.yaml)\n"


def test_recipes_lists_every_shipped_one_with_a_line(command: Command) -> None:
    code, out, _ = command("recipes")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_recipes())
    assert all(len(line.split()) > 5 for line in lines)


def test_validate_prints_the_whole_recipe(command: Command) -> None:
    code, out, _ = command("validate", "digits-quick", "--set", "threat.eps=1/5", "--set", "seed=9")
    assert code == 0
    recipe = parse_recipe(yaml.safe_load(out))
    assert (recipe.seed, str(recipe.threat.eps)) == (9, "1/5")
    assert recipe.to_yaml() == out


def test_validate_lists_all_problems(refused: Callable[..., str]) -> None:
    message = refused("validate", "digits-quick", "--set", "threat.eps=8", "--set", "pruning.sparsity=1.2")
    assert message.startswith("error: digits-quick: 2 problems\n  - threat.eps = 8: ")
    assert "\n  - pruning.sparsity = 1.2: " in message


def test_doctor_says_what_is_there(command: Command) -> None:
    code, out, _ = command("doctor")
    assert code == 0
    for what in ("python", "torch", "pyautoattack", "devices", "precision", "threads", "data"):
        assert f" {what} " in out
    assert "LOOK" not in "\n".join(line for line in out.splitlines() if "threads" not in line)


def test_doctor_names_a_missing_package(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hedgerow.doctor._NEEDED", ("no-such-package-here",))
    assert "LOOK  no-such-package-here" in command("doctor")[1]


def test_a_run_from_beginning_to_end(command: Command, tmp_path: Path) -> None:
    path = recipe_file(tmp_path)
    code, out, err = command("run", path, "--set", "seed=4")
    assert code == 0
    assert "50.00% removed" in out
    assert "(n=5)" in out
    assert out.splitlines()[-1] == "page: runs/tiny/report.html"
    assert "tiny pretrain 1/1: loss" in err
    folder = tmp_path / "runs" / "tiny"
    assert RunFolder(folder).read_recipe().seed == 4
    assert command("resume", folder)[0] == 0
    code, out, _ = command("evaluate", folder)
    assert code == 0
    words = [line.split()[0] for line in out.splitlines()]
    assert words[:3] == ["clean", "pgd", "worst_case"]
    assert set(words[3:]) <= {"warning:"}, "five images and one epoch: checks may warn, and none fails"
    code, out, _ = command("report", folder, folder, "--out", "pages/both.html")
    assert (code, out) == (0, "page: pages/both.html\nfiles: pages/report-files\n")
    assert (tmp_path / "pages" / "both.html").exists()
    code, _, err = command("run", path, "--set", "seed=5")
    assert (code, "holds a run of another recipe" in err) == (2, True)


def test_an_interruption_from_the_keyboard_says_how_to_go_on(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hedgerow.grid.run_one", stopped)
    code, _, err = command("run", recipe_file(tmp_path), "--out", "here")
    assert code == 130
    assert "Go on with: hedgerow resume here" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "digit-quick"], "no such file or shipped recipe; did you mean 'digits-quick'? Shipped: "),
        (["run", "digits-quick", "--set", "threat.eps"], "--set threat.eps: expected KEY=VALUE, such as"),
        (["run", "digits-quick", "--set", "=3"], "--set =3: expected KEY=VALUE"),
        (["run", "digits-quick", "--set", "grid=[1"], "--set grid=[1: the value is not valid YAML"),
        (["run", "digits-quick", "--set", "sed=3"], "sed: unknown key (value 3); did you mean 'seed'?"),
        (["validate", "absent.yaml"], "no such file or shipped recipe"),
        (["resume", "nowhere"], "nowhere: not a run folder (it has no recipe.yaml)"),
        (["resume", "."], "not a run folder"),
        (["report", "nowhere"], "nowhere: no such result"),
        (["report", "."], "result.json: no such result; the run is unfinished: `hedgerow resume"),
        (["evaluate", "."], ".: has no finished network yet: hedgerow resume ."),
        (["evaluate", "absent.pt"], "a file of weights needs --recipe"),
        (["evaluate", "absent.pt", "--recipe", "digits-quick"], "absent.pt: no such checkpoint"),
        (["evaluate", "absent.safetensors", "--recipe", "digits-quick"], "absent.safetensors: no such file"),
    ],
)
def test_bad_words_are_refused(refused: Callable[..., str], words: list[str], message: str) -> None:
    assert message in refused(*words)


def test_words_that_typer_refuses_itself(command: Command) -> None:
    for words in (["run"], ["prune"], ["run", "digits-quick", "--jobs", "0"], ["run", "x", "--sett", "a=1"]):
        code, _, err = command(*words)
        assert code == 2
        assert "Traceback" not in err


def test_all_wrong_changes_are_reported_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_changes(["a", "b=1", "c=[", "=d"])
    assert len(caught.value.problems) == 3
    found = parse_changes(["a.b=8/255", "c=[1, x]", "d=", "e=f=g"])
    assert found == {"a.b": "8/255", "c": [1, "x"], "d": None, "e": "f=g"}


@pytest.mark.parametrize("source", ["folder", "cifar10", "svhn"])
def test_data_that_is_not_there(refused: Callable[..., str], tmp_path: Path, source: str) -> None:
    path = recipe_file(tmp_path, data={"source": source, "path": "nowhere"})
    assert "nowhere" in refused("run", path)
    path = recipe_file(tmp_path, data={"source": source})
    assert "needs a path to its files" in refused("run", path)


def test_a_class_folder_with_a_broken_image(refused: Callable[..., str], tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            place = tmp_path / "pets" / part / name
            place.mkdir(parents=True)
            for i in range(3):
                Image.new("L", (8, 8), 40 * i).save(place / f"{i}.png")
    broken = tmp_path / "pets" / "train" / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:30])
    message = refused("run", recipe_file(tmp_path, data={"source": "folder", "path": "pets"}))
    assert "dog/1.png" in message
    assert "0.png" not in message


def test_labels_out_of_range(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "own_source_cli.py").write_text(
        "import torch\nfrom hedgerow.data import Split\nfrom hedgerow.data.sources import Raw\n"
        "def load():\n"
        "    images, labels = torch.zeros(20, 1, 8, 8, dtype=torch.uint8), torch.arange(20) % 4\n"
        "    return Raw('mine', ('a', 'b', 'c'), Split(images, labels), Split(images, labels))\n"
    )
    message = refused("run", recipe_file(tmp_path, data={"source": "own_source_cli:load"}))
    assert "label 3 at position 3, and 3 classes: labels run from 0 to 2" in message


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("no_nets_cli:make", "cannot import module 'no_nets_cli'"),
        ("own_nets_cli:mak", "has no 'mak'; did you mean 'make'?"),
        ("own_nets_cli", "write package.module:function, with a colon"),
        ("own_nets_cli:flat", "MultiheadAttention layer, so there is nothing to prune"),
        ("own_nets_cli:shared", "share one tensor; give each layer its own weight"),
        ("own_nets_cli:fails", "it raised RuntimeError: not today"),
        ("own_nets_cli:make", "expected logits [2, 10]"),
    ],
)
def test_factories_that_will_not_do(
    refused: Callable[..., str], tmp_path: Path, factory: str, message: str
) -> None:
    (tmp_path / "own_nets_cli.py").write_text(
        "from torch import nn\n"
        "def make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n"
        "def flat(): return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64))\n"
        "def fails(): raise RuntimeError('not today')\n"
        "def shared():\n"
        "    one, other = nn.Linear(64, 64), nn.Linear(64, 64)\n"
        "    other.weight = one.weight\n"
        "    return nn.Sequential(nn.Flatten(), one, other, nn.Linear(64, 10))\n"
    )
    assert message in refused("run", recipe_file(tmp_path, model={"factory": factory}), "--out", "out")
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_a_checkpoint_cut_short(refused: Callable[..., str], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open(parse_recipe(RAW))
    folder.checkpoints.mkdir()
    last = folder.checkpoints / "pretrain-last.pt"
    last.write_bytes(b"PK\x03\x04 and no more")
    message = refused("resume", folder.path)
    assert str(last) in message
    assert "Delete it and resume" in message


def test_a_grid_without_a_finished_cell_has_no_report(refused: Callable[..., str], tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").open(parse_recipe({**RAW, "grid": {"pruning.sparsity": [0.5, 0.9]}}))
    assert "no cell of this grid is finished; `hedgerow resume" in refused("report", "run")


def test_a_spoilt_recipe_in_a_run_folder(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: [")
    for words in (["resume", "."], ["run", recipe_file(tmp_path), "--out", "."]):
        assert "recipe.yaml: 1 problem\n  - not valid YAML" in refused(*words)


def test_training_that_fails_is_a_message(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "own_loss_cli.py").write_text(
        "def make():\n    return lambda model, x, y, generator=None: (model(x).sum() * float('nan'), {})\n"
    )
    message = refused("run", recipe_file(tmp_path, objective={"name": "own_loss_cli:make"}))
    assert "phase pretrain, epoch 1 of 1, step 1: the loss is not a number" in message


def test_a_recipe_corrected_after_a_refusal_may_use_the_same_folder(command: Command, tmp_path: Path) -> None:
    for sections in ({"data": {"source": "folder", "path": "typo"}}, {"model": {"factory": "typo_cli:make"}}):
        for grid in ({}, {"pruning.sparsity": [0.5]}):
            assert command("run", recipe_file(tmp_path, **sections, grid=grid))[0] == 2
    assert command("run", recipe_file(tmp_path))[0] == 0
