"""`hedgerow export` and `hedgerow latency` on a tiny run: files, tables, records, the page, and refusals."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hedgerow.engines.timing import Plan, Subject, Timings
from hedgerow.errors import ModelError, RecipeError
from hedgerow.export import predictor, write_form
from hedgerow.export.forms import Material
from hedgerow.exporting.source import counted, merged, protocol_of, source_of
from hedgerow.exporting.verify import survivals
from hedgerow.exporting.writing import Order, export_target
from hedgerow.registry import UnknownNameError
from hedgerow.result import Cost, ExportRecord, Latency, LatencyRecord, load_result

Command = Callable[..., tuple[int, str, str]]


def timed(subjects: Sequence[Subject], plan: Plan, **_: object) -> Timings:
    """Stand in for the measuring processes: the dense network takes 8 ms, anything sparse 1 ms."""
    return Timings(
        [
            Latency(
                form=subject.form,
                engine=subject.engine,
                threads=threads,
                batch=batch,
                median_ms=1.0 if subject.engine == "sparse" else 8.0,
                low_ms=1.0,
                high_ms=9.0,
                runs=15,
                images_per_second=batch / 0.001,
                load_seconds=0.1,
                peak_memory=10**8,
            )
            for subject in subjects
            for threads in plan.threads
            for batch in plan.batches
        ]
    )


def test_export_from_the_command_line_to_the_page(finished: Path, tmp_path: Path, command: Command) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    words = ("--formats", "sparse,onnx", "--verify", "12", "--batch", "1,3", "--seconds", "0.01")
    code, out, err = command("export", run, *words)
    assert code == 0, err
    record = ExportRecord.model_validate_json((run / "export" / "export.json").read_text())
    assert [(form.form, form.file) for form in record.cost.forms] == [
        ("sparse", "sparse.safetensors"),
        ("onnx", "onnx.onnx"),
    ]
    engines = {(t.form, t.engine) for t in record.cost.latencies}
    assert engines | {("sparse", "sparse")} == {
        ("dense", "onnxruntime"),
        ("onnx", "onnxruntime"),
        ("sparse", "sparse"),
    }
    assert {t.batch for t in record.cost.latencies} == {1, 3}
    result = load_result(run)
    assert result.cost == record.cost
    assert result.survival == record.survival
    kept = result.sparsity.prunable - result.sparsity.kept
    assert record.cost.parameters - record.cost.nonzeros >= kept
    assert 0 < record.cost.flops_sparse < record.cost.flops_dense
    for line in (
        "dense float32",
        "sparse ",
        "onnx ",
        "smaller: than all parameters",
        "replayed: right on the clean",
    ):
        assert line in out
    assert out.splitlines()[-1] == f"folder: {run / 'export'}"
    assert "sparse: logits differ by 0 at most" in err
    page = (run / "report.html").read_text()
    assert "tiny: Sizes and times" in page
    assert "What is left of robustness" in page
    assert "Sizes and times" not in (finished / "report.html").read_text()
    for form in record.survival[1:]:  # lossless forms: nothing changes
        assert set(form.changed.values()) == {0}
        assert form.measures["clean"].correct == record.survival[0].measures["clean"].correct
    answer = predictor(run)
    images = source_of(run, None).test.pixels()[:5]
    assert torch.allclose(answer(images), predictor(run / "export" / "onnx.onnx")(images), atol=1e-4)


def test_latency_of_an_exported_file_and_of_engines_that_do_not_read_it(
    finished: Path, tmp_path: Path, command: Command
) -> None:
    source = source_of(finished, None)
    path, _ = write_form("sparse", tmp_path, Material(source.model, source.test.pixels()[:9], torch.empty(0)))
    code, out, _ = command("latency", path, "--engines", "torch", "--batch", "2", "--seconds", "0.01")
    assert code == 0
    record = LatencyRecord.model_validate_json((tmp_path / "sparse.safetensors-latency.json").read_text())
    (time,) = record.latencies
    assert (time.form, time.engine, time.batch, time.threads) == ("sparse.safetensors", "torch", 2, 1)
    assert record.bytes_on_disk == {"sparse.safetensors": path.stat().st_size}
    assert out.splitlines()[1].split()[:4] == ["sparse.safetensors", "torch", "1", "2"]
    code, out, err = command("latency", path, "--engines", "onnxruntime")
    assert (code, out) == (2, "")
    assert "onnxruntime reads .onnx. `hedgerow export` writes such files" in err


def test_latency_of_a_run_enters_its_result(
    finished: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hedgerow.exporting.latency.measure", timed)
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    code, out, _ = command("latency", run, "--engines", "torch,sparse", "--threads", "1,2")
    assert code == 0
    assert out.splitlines()[-1] == f"record: {run / 'latency.json'}"
    cost = load_result(run).cost
    assert cost is not None
    assert {(t.form, t.engine, t.threads) for t in cost.latencies} == {
        ("sparse", engine, threads) for engine in ("torch", "sparse") for threads in (1, 2)
    }
    page = (run / "report.html").read_text()
    assert "no speed-up is stated: the dense network was not timed under ONNX Runtime" in page


def test_a_weights_file_under_a_recipe_and_a_format_that_fails(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hedgerow.exporting.writing.measure", timed)

    def fails(*_: object) -> None:
        raise ModelError("ONNX has no operation for aten.odd")

    monkeypatch.setattr("hedgerow.export.forms.write_onnx", fails)
    monkeypatch.setattr("hedgerow.exporting.writing.write_onnx", fails)
    weights = Path(shutil.copy(finished / "model.safetensors", tmp_path / "own.safetensors"))
    recipe = str(finished / "recipe.yaml")
    done = export_target(weights, Order(formats=("sparse", "onnx")), recipe=recipe)
    assert done.folder == tmp_path / "own-export"
    assert [form.form for form in done.record.cost.forms] == ["sparse"]
    assert done.record.cost.refused == {"onnx": "ONNX has no operation for aten.odd"}
    with pytest.raises(ModelError, match=r"aten\.odd"):
        export_target(weights, Order(formats=("onnx",)), recipe=recipe)
    again = source_of(done.folder / "sparse.safetensors", recipe)  # a sparse file is a file of weights too
    for name, tensor in source_of(finished, None).model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor)


def test_robustness_that_does_not_survive_is_counted(finished: Path, tmp_path: Path) -> None:
    source = source_of(finished, None)
    x, y = source.test.pixels()[:20], source.test.labels[:20]
    material = Material(source.model, x, x)
    good, _ = write_form("sparse", tmp_path, material)
    (tmp_path / "bad").mkdir()
    last = list(source.model.parameters())[-1]
    with torch.no_grad():
        last += torch.tensor([1e4] + [0.0] * 9)  # answers class 0 whatever it sees
        bad, _ = write_form("sparse", tmp_path / "bad", material)
        last -= torch.tensor([1e4] + [0.0] * 9)
    threat, protocol = source.recipe.threat.build(), protocol_of(source.recipe)
    found = survivals(source.model, {"sparse": good, "shrunk": bad}, x, y, threat=threat, protocol=protocol)
    network, same, broken = found
    assert {name: m.correct for name, m in same.measures.items()} == {
        name: m.correct for name, m in network.measures.items()
    }
    zeros = int((y == 0).sum())
    assert {m.correct for m in broken.measures.values()} == {zeros}
    with torch.no_grad():
        answered = source.model(x).argmax(1)
    assert broken.changed["clean"] == int((answered != 0).sum()) > 0


def cost_with(**changes: object) -> Cost:
    values = {
        "parameters": 10,
        "nonzeros": 5,
        "flops_dense": 100,
        "flops_sparse": 50,
        "flops_unknown": [],
        "bytes_dense": 40,
    }
    return Cost.model_validate({**values, **changes})


def test_what_was_measured_before_stays_unless_measured_again() -> None:
    subjects = [Subject("dense", "onnxruntime", Path("x")), Subject("sparse", "sparse", Path("x"))]
    old = cost_with(latencies=timed(subjects, Plan()).latencies, refused={"onnx": "no", "sparse": "no"})
    new = cost_with(latencies=[old.latencies[-1].model_copy(update={"median_ms": 3.0})])
    both = merged(old, new)
    assert [t.median_ms for t in both.latencies] == [8.0, 8.0, 1.0, 3.0]
    assert both.refused == {"onnx": "no"}
    assert merged(old, cost_with(nonzeros=4)).latencies == []
    assert merged(None, new) == new


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "."], "has no finished network yet"),
        (["export", "absent.pt"], "a file of weights needs --recipe"),
        (["export", ".", "--formats", "sparse,onx"], "unknown format 'onx'; did you mean 'onnx'"),
        (["export", ".", "--formats", ","], "no format given; known: onnx"),
        (["export", ".", "--verify", "-1"], "verify is -1"),
        (["export", ".", "--batch", "1,x"], "--batch 1,x: expected whole numbers such as 1,64"),
        (["export", ".", "--threads", "0"], "threads are [0]"),
        (["latency", "absent.onnx"], "absent.onnx: no such file or run folder"),
        (["latency", "absent.onnx", "--engines", "onxruntime"], "unknown engine 'onxruntime'; did you mean"),
        (["latency", "recipe.yaml"], "recipe.yaml: onnxruntime reads .onnx"),
        (["latency", "absent.pt", "--seconds", "0"], "seconds is 0.0"),
    ],
)
def test_bad_words_are_refused(
    words: list[str],
    message: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(finished / "recipe.yaml", tmp_path)
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err


def test_orders_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown format"):
        Order(formats=("zip",))
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(RecipeError, match="needs --recipe"):
        export_target(tmp_path / "x.safetensors", Order())
    with pytest.raises(ModelError, match="these weights are of another network"):
        export_target(tmp_path / "x.safetensors", Order(), recipe="digits-quick")


def test_flops_that_are_not_known_are_not_counted_as_none() -> None:
    class Branching(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = torch.nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if float(x.sum()) > 10**6:  # what no trace can follow
                return self.line(x) + 1
            return self.line(x)  # type: ignore[no-any-return]

    cost = counted(Branching(), torch.rand(2, 4))
    assert (cost.parameters, cost.bytes_dense) == (15, 60)
    assert cost.flops_dense is None
    assert cost.flops_sparse is None
    (reason,) = cost.flops_unknown
    assert reason.startswith("the whole network: ")
    plain = counted(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)), torch.rand(2, 4))
    assert (plain.flops_dense, plain.flops_unknown) == (24, [])
