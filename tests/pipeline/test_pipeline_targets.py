"""`hedgerow evaluate` of anything that holds a network, by people who never prune; shards, budget, corruptions."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import run_cases
import torch
from torch import nn

from hedgerow.corruptions import CORRUPTIONS
from hedgerow.export.onnx_file import write_onnx
from hedgerow.export.program import write_program
from hedgerow.files import write_tensors
from hedgerow.pipeline import dataset_of, model_of
from hedgerow.result import Evaluation, load_result
from hedgerow.runfolder import load_weights

Command = Callable[..., tuple[int, str, str]]
SMALL = (
    *("--set", "evaluation.autoattack=false", "--set", "evaluation.pgd_steps=2"),
    *("--set", "evaluation.pgd_restarts=1", "--set", "evaluation.batch_size=4", "--set", "evaluation.integrity=4"),
    *("--set", "device=cpu", "--set", "evaluation.gallery=2"),
)
GIVEN = ("--data", "digits", "--eps", "0.3", "--examples", "10")
NETS = """
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.last = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.two.weight = self.one.weight  # two layers, one tensor: it can be evaluated, and not pruned

    def forward(self, x):
        return self.last(self.two(self.one(x.flatten(1)).relu()).relu())

def few():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
"""


@pytest.fixture
def command(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs `hedgerow WORDS` in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return command


@pytest.fixture(scope="session")
def network(finished: Path) -> nn.Module:
    recipe = run_cases.recipe()
    model = model_of(recipe, dataset_of(recipe))
    load_weights(model, finished / "model.safetensors")
    return model.eval()


@pytest.fixture(scope="session")
def files(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    images = dataset_of(run_cases.recipe()).test.pixels()[:4]
    write_program(folder / "net.pt2", network, images)
    pytest.importorskip("onnxruntime")
    write_onnx(folder / "net.onnx", network, images)
    return folder


def record_of(path: Path) -> Evaluation:
    return Evaluation.model_validate_json(path.read_text(encoding="utf-8"))


def without_times(path: Path) -> str:
    """The bytes of a record apart from its times."""
    return re.sub(r'"seconds": [^,\n]+', '"seconds": 0', path.read_text(encoding="utf-8"))


def test_a_program_is_attacked_through_its_gradients_like_the_network_itself(
    finished: Path, files: Path, command: Command, tmp_path: Path
) -> None:
    program = Path(shutil.copy(files / "net.pt2", tmp_path / "net.pt2"))
    code, out, err = command("evaluate", program, *GIVEN, *SMALL, "--out", "record.json")
    assert code == 0, err
    assert out.splitlines()[-1] == f"folder: {tmp_path / 'net-evaluation'}"
    found = record_of(tmp_path / "net-evaluation" / "evaluation.json")
    assert found == record_of(tmp_path / "record.json")
    recipe = finished / "recipe.yaml"
    weights = Path(shutil.copy(finished / "model.safetensors", tmp_path / "plain.safetensors"))
    changes = ("--set", "data={}", "--set", "seed=0", *GIVEN, *SMALL)
    assert command("evaluate", weights, "--recipe", recipe, *changes)[0] == 0
    same = record_of(tmp_path / "plain-evaluation" / "evaluation.json")
    assert found.verdicts == same.verdicts
    assert found.examples == same.examples
    assert "broken by pgd" in found.verdicts
    assert found.refused == {}


def test_an_onnx_file_meets_black_box_attacks_and_says_what_was_refused(
    network: nn.Module, files: Path, command: Command, tmp_path: Path
) -> None:
    file = Path(shutil.copy(files / "net.onnx", tmp_path / "net.onnx"))
    asked = (
        "--set",
        "evaluation.attacks=[apgd-ce, {name: square, queries: 30}]",
        "--set",
        "evaluation.curve=[0.2]",
    )
    code, out, err = command(
        "evaluate", file, "--data", "digits", "--eps", "0.3", "--examples", "10", *SMALL, *asked
    )
    assert code == 0, err
    found = record_of(tmp_path / "net-evaluation" / "evaluation.json")
    assert set(found.measures) == {"clean", "square", "worst_case"}
    assert set(found.refused) == {"pgd", "apgd-ce", "curve"}
    assert all("needs gradients" in why for why in found.refused.values())
    assert "not run: apgd-ce needs gradients" in out
    assert "PGD" not in found.measures["worst_case"].how
    data = dataset_of(run_cases.recipe(data={})).test
    images = data.select(torch.isin(data.positions, torch.tensor(found.examples)).nonzero().flatten())
    with torch.no_grad():
        right = network(images.pixels()).argmax(1) == images.labels
    assert found.measures["clean"].correct == int(right.sum())
    assert "broken by square" in found.verdicts
    assert not found.suspect


def test_a_factory_with_weights_that_could_not_be_pruned(command: Command, tmp_path: Path) -> None:
    (tmp_path / "own_nets_targets.py").write_text(NETS)
    sys.path.insert(0, str(tmp_path))
    import own_nets_targets  # type: ignore[import-not-found]

    torch.manual_seed(0)
    state = own_nets_targets.Tied().state_dict()
    torch.save(state, tmp_path / "w.pt")
    write_tensors(tmp_path / "w.safetensors", state)
    records = []
    for weights in ("w.pt", "w.safetensors"):
        words = ("evaluate", "own_nets_targets:Tied", "--weights", weights, *GIVEN, *SMALL)
        code, out, err = command(*words)
        assert code == 0, err
        assert out.splitlines()[-1] == "folder: own_nets_targets.Tied-evaluation"
        records.append(without_times(tmp_path / "own_nets_targets.Tied-evaluation" / "evaluation.json"))
    assert records[0] == records[1]
    code, _, err = command("evaluate", "own_nets_targets:few", *GIVEN, *SMALL)
    assert code == 2
    assert "expected logits [2, 10]" in err


def test_shards_merge_to_the_bytes_of_the_whole_and_a_budget_says_so(
    files: Path, command: Command, tmp_path: Path
) -> None:
    for name in ("whole", "parts"):
        shutil.copy(files / "net.pt2", tmp_path / f"{name}.pt2")
    words = (*GIVEN, *SMALL, "--set", "name=same")
    assert command("evaluate", "whole.pt2", *words)[0] == 0
    code, out, _ = command("evaluate", "parts.pt2", *words, "--shard", "2/2")
    assert (code, out.splitlines()[0][:22]) == (0, "4 of 10 images done; g")
    assert not (tmp_path / "parts-evaluation" / "evaluation.json").exists()
    assert command("evaluate", "parts.pt2", *words, "--shard", "1/2")[0] == 0
    whole, parts = (tmp_path / f"{name}-evaluation" / "evaluation.json" for name in ("whole", "parts"))
    assert without_times(whole) == without_times(parts)
    code, out, _ = command("evaluate", "whole.pt2", *words, "--budget", "0.001s")
    assert code == 0
    sampled = record_of(whole)
    assert len(sampled.examples) == 4
    said = "; 4 of 10 images, drawn at random by seed 0: what 0.001s allowed"
    assert all(measure.n == 4 and measure.how.endswith(said) for measure in sampled.measures.values())
    assert said in out
    exact = dict(zip(record_of(parts).examples, record_of(parts).verdicts, strict=True))
    assert set(sampled.examples) < set(exact)


def test_corruptions_stand_beside_the_attacks_and_apart_from_them(
    finished: Path, command: Command, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    before = load_result(run).evaluation
    code, out, err = command("evaluate", run, "--corruptions", "all")
    assert code == 0, err
    after = load_result(run).evaluation
    assert before is not None
    assert after is not None
    assert after.corruptions is not None
    assert (after.verdicts, set(after.measures)) == (before.verdicts, set(before.measures))
    assert "corruptions " in out
    found = {one.name: one for one in after.corruptions.found}
    assert set(found) == set(CORRUPTIONS) - {"saturate"}
    assert after.corruptions.left_out["saturate"] == "is for images of 3 channels, and these have 1"
    assert {"snow", "frost", "fog"} < set(after.corruptions.left_out)
    for one in found.values():
        assert [level.severity for level in one.levels] == [1, 2, 3, 4, 5]
        assert one.accuracy == pytest.approx(sum(level.correct for level in one.levels) / (5 * 20))
    noise = [one.accuracy for one in found.values() if one.family == "noise"]
    assert after.corruptions.families["noise"] == pytest.approx(sum(noise) / 4)
    mean = sum(one.accuracy for one in found.values()) / 12
    assert after.corruptions.accuracy == pytest.approx(mean)
    again = command("evaluate", run, "--corruptions", "jpeg,gaussian-noise")
    assert again[0] == 0
    few = load_result(run).evaluation
    assert few is not None
    assert few.corruptions is not None
    assert [one.model_dump() for one in few.corruptions.found] == [
        found[name].model_dump() for name in ("jpeg", "gaussian-noise")
    ]
    assert json.loads((run / "result.json").read_text())["evaluation"]["corruptions"]["left_out"] == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["net.pt2"], "--data (or --recipe): which test images, such as folder:PATH"),
        (["net.pt2", "--data", "digits"], "--eps (or --recipe): how far an attacker may go"),
        (["own:net", "--eps", "0.1"], "--data (or --recipe)"),
        (["gone.pt2", *GIVEN], "gone.pt2: no such file"),
        (["gone.onnx", *GIVEN], "gone.onnx: no such file"),
        (["net.pt2", *GIVEN, "--budget", "10"], "--budget 10: write a time such as 90s, 10m or 1h30m"),
        (["net.pt2", *GIVEN, "--shard", "0/2"], "shard 0/2: the parts are 1/2 and so on"),
        (["net.pt2", *GIVEN, "--weights", "w.pt"], "--weights w.pt: is for package.module:factory"),
        (["net.pt2", *GIVEN, "--corruptions", "rain"], "evaluation.corruptions = 'rain': unknown corruption"),
        (["net.pt2", *GIVEN, "--corruptions", "saturate"], "'saturate' is for images of 3 channels"),
        (["net.pt2", "--data", "folder:nowhere", "--eps", "0.1"], "nowhere: no such folder"),
        (["net.pt2", "--data", "digits", "--eps", "8"], "threat.eps = '8': eps 8 is above 1"),
        (["net.pt2", *GIVEN, "--norm", "l3"], "threat.norm = 'l3'"),
    ],
)
def test_bad_words_are_one_clear_message(
    files: Path, command: Command, tmp_path: Path, words: list[str], message: str
) -> None:
    shutil.copy(files / "net.pt2", tmp_path / "net.pt2")
    code, out, err = command("evaluate", *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
