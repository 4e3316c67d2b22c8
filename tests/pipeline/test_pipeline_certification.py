"""`hedgerow certify` on a tiny run: what it writes, that it goes on, shards, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import run_cases

from hedgerow import physical
from hedgerow.certification import Order, certifier_of, certify_target, parse_radii
from hedgerow.certify import Shard, Smoothing
from hedgerow.errors import CertificationError, CheckpointError, RecipeError
from hedgerow.files import write_text
from hedgerow.registry import UnknownNameError
from hedgerow.result import Certification, load_result

Command = Callable[..., tuple[int, str, str]]
OPTIONS = {"sigma": 0.25, "n0": 20, "n": 200}
WORDS = ("--sigma", "0.25", "--n0", "20", "--n", "200")
NAMES = ("certify.json", "certify.csv", "certify.svg")


def order(**changes: Any) -> Order:
    return Order(**{"options": OPTIONS, "examples": 12, **changes})


def written(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in NAMES]


@pytest.fixture(scope="session")
def certified(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certification of 12 images in one piece; tests do not change it."""
    folder = tmp_path_factory.mktemp("certified") / "out"
    assert certify_target(finished, order(), out=folder).record is not None
    return folder


def test_the_record_is_of_the_runs_test_images_and_says_how(finished: Path, certified: Path) -> None:
    record = Certification.model_validate_json((certified / "certify.json").read_text())
    evaluated = load_result(finished).evaluation
    assert evaluated is not None
    assert (record.method, record.norm, record.split) == ("smoothing", "l2", "test")
    assert record.settings == {**OPTIONS, "alpha": 0.001, "seed": run_cases.recipe().seed}
    assert len(record.certificates) == record.plain["smoothed"].n == 12
    assert {c.example for c in record.certificates} < set(evaluated.examples)
    assert all(sum(c.evidence["estimation"].values()) == 200 for c in record.certificates)
    assert record.curve[0].correct <= record.plain["smoothed"].correct
    assert record.curve[0].correct > 0
    assert all(check.passed for check in record.checks.values())


def test_a_sparse_network_votes_in_the_sparse_runtime(
    finished: Path, certified: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(physical, "_HEAVY", 0)
    record = certify_target(finished, order(), out=tmp_path / "fast").record
    assert record is not None
    check = record.checks[physical.CHECK]
    assert check.passed
    assert "the sparse runtime answered" in check.number
    plain = Certification.model_validate_json((certified / "certify.json").read_text())
    assert physical.CHECK not in plain.checks
    assert [c.prediction for c in record.certificates] == [c.prediction for c in plain.certificates]
    assert [c.radius for c in record.certificates] == pytest.approx(
        [c.radius for c in plain.certificates], abs=0.02
    )
    with pytest.raises(CheckpointError, match="another certification"):  # evidence of the two is not mixed
        certify_target(finished, order(), out=certified)


def test_stopped_and_sharded_it_ends_with_the_same_bytes(finished: Path, certified: Path, tmp_path: Path) -> None:
    for _ in range(13):
        done = certify_target(finished, order(minutes=1e-9), out=tmp_path / "parts")
        if done.record:
            break
        assert not (tmp_path / "parts" / "certify.json").exists()
        assert 0 < done.known < done.total == 12
    assert written(tmp_path / "parts") == written(certified)
    for number in (2, 3, 1):
        done = certify_target(finished, order(shard=Shard(number, 3)), out=tmp_path / "shards")
        assert (done.record is not None) is (number == 1)
    assert written(tmp_path / "shards") == written(certified)


def test_the_command_writes_into_the_run_and_is_done_once(
    finished: Path, certified: Path, tmp_path: Path, command: Command
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    words = ("certify", run, *WORDS, "--examples", "12")
    code, out, err = command(*words)
    folder = run / "certify-smoothing-0.25"
    assert code == 0, err
    assert "12/12 images" in err
    lines = out.splitlines()
    assert lines[0].startswith("smoothed ")
    assert lines[1].startswith("radius 0 ")
    assert "/12" in lines[1]
    assert lines[-1] == f"folder: {folder}"
    assert "sigma 0.25, n0 20, n 200, alpha 0.001" in out
    assert written(folder) == written(certified)
    before = (folder / "evidence" / "1-of-1" / "evidence.jsonl").stat().st_mtime_ns
    code, out, _ = command(*words, "--radii", "0,110/255")
    assert code == 0
    assert [line.split()[1] for line in out.splitlines() if line.startswith("radius")] == ["0", "0.4314"]
    assert [a["radius"] for a in json.loads((folder / "certify.json").read_text())["curve"]] == [0, 110 / 255]
    assert (folder / "evidence" / "1-of-1" / "evidence.jsonl").stat().st_mtime_ns == before
    code, out, _ = command(*words, "--shard", "2/2", "--out", tmp_path / "half")
    assert (code, out.splitlines()[0]) == (
        0,
        "6 of 12 images done; go on with the same command, or the other shards",
    )


def test_a_file_of_weights_is_certified_under_a_recipe(finished: Path, certified: Path, tmp_path: Path) -> None:
    weights = Path(shutil.copy(finished / "model.safetensors", tmp_path / "net.safetensors"))
    recipe = write_text(tmp_path / "tiny.yaml", run_cases.recipe().to_yaml())
    done = certify_target(weights, order(), recipe=str(recipe))
    assert done.folder == tmp_path / "net-certify-smoothing-0.25"
    assert written(done.folder) == written(certified)
    with pytest.raises(RecipeError, match="a file of weights needs --recipe"):
        certify_target(weights, order())


def test_the_number_of_images_is_the_evaluations_unless_given(finished: Path, tmp_path: Path) -> None:
    done = certify_target(finished, Order(options=OPTIONS), out=tmp_path, changes={"seed": 2})
    assert done.total == 20
    assert done.record is not None
    assert done.record.settings["seed"] == 2


def test_a_folder_of_another_certification_is_refused(finished: Path, certified: Path) -> None:
    before = written(certified)
    for options in ({**OPTIONS, "sigma": 0.5}, {**OPTIONS, "n": 300}):
        with pytest.raises(CheckpointError, match=r"is of another certification: .* Give another --out"):
            certify_target(finished, order(options=options), out=certified)
    assert written(certified) == before


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("smoothing", {}, "certify --method smoothing: 1 problem\n  - sigma: required, and missing"),
        ("smoothing", {"sigma": 0.25, "eps": 1.0}, "eps: unknown key .* Allowed here: alpha, n, n0, sigma"),
        ("smoothing", {"sigma": "much"}, "sigma = 'much': Input should be a valid number"),
    ],
)
def test_options_that_a_method_does_not_take_are_refused(method: str, options: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        certifier_of(method, options, seed=0)


def test_methods_are_open() -> None:
    assert certifier_of("smoothing", {"sigma": 0.5}, seed=3) == Smoothing(sigma=0.5, seed=3)
    assert certifier_of("hedgerow.certify:Smoothing", {"sigma": 0.5}, seed=0) == Smoothing(sigma=0.5)
    with pytest.raises(UnknownNameError, match=r"unknown method of certification 'smoothin'; did you mean"):
        certifier_of("smoothin", {}, seed=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "sigma: required, and missing"),
        (("--sigma", "0"), "sigma is 0.0; it is the spread of the noise in pixel units and must be above 0"),
        (("--sigma", "1", "--n", "0"), "n is 0; it must be a whole number, 1 or more"),
        (("--sigma", "1", "--alpha", "1"), "alpha is 1.0"),
        (("--sigma", "1", "--shard", "3/2"), "shard 3/2: the parts are 1/2 and so on"),
        (("--sigma", "1", "--shard", "two"), "shard 'two': write PART/PARTS"),
        (("--sigma", "1", "--examples", "0"), "examples is 0; give 1 or more"),
        (("--sigma", "1", "--minutes", "-1"), "minutes is -1.0; give a time above 0"),
        (("--sigma", "1", "--radii", "a"), "radii 'a': 'a' is not a number"),
        (("--sigma", "1", "--radii", "-1"), "radii are [-1.0]; give distances of 0 or more"),
        (("--sigma", "1", "--method", "luck"), "unknown method of certification 'luck'"),
    ],
)
def test_bad_words_are_one_clear_message(
    finished: Path, command: Command, words: tuple[str, ...], message: str
) -> None:
    code, out, err = command("certify", finished, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert not list(finished.glob("certify*"))


def test_an_unfinished_run_has_nothing_to_certify(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no finished network yet: hedgerow resume"):
        certify_target(tmp_path, order())


def test_radii_are_read_exactly() -> None:
    assert parse_radii("0, 110/255,0.5") == [0.0, 110 / 255, 0.5]
    assert parse_radii("") is None
    with pytest.raises(CertificationError, match="radii '0,,1'"):
        parse_radii("0,,1")
