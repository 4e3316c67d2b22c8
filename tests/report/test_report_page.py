from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_folders import CLASSES, LAYERS, evaluation, measure, result, write_run

from hedgerow.checks import Check
from hedgerow.errors import CheckpointError, HedgerowError
from hedgerow.report import write_report
from hedgerow.result import LayerCount, PhaseRecord, Result, SparsityCount

Make = Callable[..., Path]
VOID = {"meta", "link", "img", "br", "hr"}


class Page(HTMLParser):
    """Collects tags and text, and fails on tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def report(runs: list[Path], tmp_path: Path, **options: str) -> tuple[str, Page]:
    html = write_report(runs, tmp_path / "report.html", **options).read_text(encoding="utf-8")
    page = Page(html)
    assert page.open == []
    return html, page


def test_page_says_everything_it_was_given(three_runs: list[Path], tmp_path: Path) -> None:
    _, page = report(three_runs, tmp_path, command="hedgerow report a b c")
    for said in (
        "Comparison of 3 runs on cifar10",
        "hydra at 96.8 % sparsity keeps 88 % of the dense network's robust accuracy",
        "(AutoAttack 31.1 % of 360 images)",
        "linf, eps 8/255",
        "360 of the test split",
        "57.2 % [52.1, 62.2]",
        "\u22124.4 pp to dense",
        "2,976",
        "17.86 kB",
        "AutoAttack standard, eps 8/255 linf; n = 360, seed 0",
        "unbounded attack reaches zero",
        "50 epochs",
        "14 of 14 recorded images",
        "\u00b18/255 fills the whole range",
        "8,123",
        "51 min 15 s",
        "2.9.0",
        "hedgerow run recipes/hydra-97.yaml --seed 0",
        "pruner: hydra",
        "hedgerow report a b c",
        *LAYERS,
        *CLASSES,
    ):
        assert said in page.text, said


def test_page_needs_nothing_else(three_runs: list[Path], tmp_path: Path) -> None:
    html, page = report(three_runs, tmp_path)
    assert not page.all("script")
    references = [v for _, a in page.tags for k, v in a.items() if k in ("src", "href", "xlink:href")]
    assert references
    assert all(str(v).startswith(("data:", "#")) for v in references)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert "http" not in page.text


def test_page_is_accessible(three_runs: list[Path], tmp_path: Path) -> None:
    _, page = report(three_runs, tmp_path)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = [str(a["href"])[1:] for tag, a in page.tags if str(a.get("href", "")).startswith("#")]
    assert set(targets) <= set(ids)
    assert all(a.get("role") == "img" and a.get("aria-label") for a in page.all("svg"))
    assert all(a.get("alt") for a in page.all("img"))
    assert all(a.get("scope") for a in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    described = [a["aria-describedby"] for a in page.all("span") if a.get("class") == "said"]
    assert set(described) == {a["id"] for a in page.all("span") if a.get("role") == "tooltip"}
    assert page.text.count(" images correct, seed 0") == 3 * 4


def test_same_runs_give_same_bytes(three_runs: list[Path], tmp_path: Path) -> None:
    first = write_report(three_runs, tmp_path / "a.html").read_bytes()
    assert write_report(three_runs, tmp_path / "b.html").read_bytes() == first


def test_drawing_leaves_matplotlib_as_it_was(three_runs: list[Path], tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams.items())
    first = write_report(three_runs, tmp_path / "a.html").read_bytes()
    assert dict(matplotlib.rcParams.items()) == before
    with matplotlib.rc_context({"font.size": 30.0, "lines.linewidth": 9.0}):
        assert write_report(three_runs, tmp_path / "b.html").read_bytes() == first


EVIL = "<script>alert('x')</script>$\\frac{$\"&\x00\u202e"


def hostile_result() -> Result:
    scored = evaluation(206, 130, 112)
    measures = {name: m.model_copy(update={"how": EVIL}) for name, m in scored.measures.items()}
    scored = scored.model_copy(
        update={
            "threat": EVIL,
            "split": EVIL,
            "checks": {EVIL: Check(outcome="fail", number=EVIL, how=EVIL)},
            "measures": measures | {EVIL: measures["pgd"]},
        }
    )
    phase = PhaseRecord(name=EVIL, epochs=1, seconds=1.0, images_per_second=1.0, objective=EVIL)
    record = result(
        EVIL,
        method=EVIL,
        sparsity=0.9,
        scored=scored,
        phases=[phase],
        **dict.fromkeys(("dataset", "model", "command"), EVIL),
        **{key: {EVIL: EVIL} for key in ("versions", "machine", "recipe")},
        classes=[EVIL] * 10,
        bytes_on_disk={EVIL: 5},
        split_sizes={EVIL: 5},
    )
    layers = [LayerCount(name=EVIL, shape=[10], kept=1, total=10)]
    return record.model_copy(update={"sparsity": SparsityCount(asked=0.9, kept=1, prunable=10, layers=layers)})


def test_hostile_names_are_only_text(make_run: Make, tmp_path: Path) -> None:
    evil = write_run(tmp_path / "evil", hostile_result())
    lines = (evil / "metrics.jsonl").read_text().replace("prune", "<script>$\\\\frac{$")
    (evil / "metrics.jsonl").write_text(lines)
    html, page = report([evil, make_run(), evil], tmp_path, title=EVIL, command=EVIL)
    assert not page.all("script")
    assert "<script" not in html
    assert page.text.count("alert('x')") > 20


def test_one_run_has_no_comparison(make_run: Make, tmp_path: Path) -> None:
    html, page = report([make_run()], tmp_path)
    assert "Report on hydra-97" in page.text
    assert "there is no dense run to compare it with" in page.text
    assert "against density" not in html
    assert "to dense" not in page.text


def test_two_runs_have_plots_with_reference(three_runs: list[Path], tmp_path: Path) -> None:
    _, page = report(three_runs[:2], tmp_path)
    labels = [str(a["aria-label"]) for a in page.all("svg")]
    assert any(la.startswith("AutoAttack accuracy against density. dense: 35.6 %") for la in labels)
    assert any(la.startswith("Clean accuracy against density") for la in labels)
    assert any(la.startswith("Density by layer of hydra-97. features.0.conv: 24.0 %") for la in labels)
    assert not any(la.startswith("Density by layer of dense") for la in labels)
    assert any("prune epochs 21 to 30" in la for la in labels)


def test_missing_pieces_are_said(make_run: Make, tmp_path: Path) -> None:
    bare = make_run(
        scored=None, metrics=False, gallery=False, phases=[], versions={}, machine={}, bytes_on_disk={}
    )
    (bare / "recipe.yaml").unlink()
    for runs in ([bare], [bare, bare]):
        _, page = report(runs, tmp_path)
        for said in (
            "No training metrics were recorded",
            "No attacked images were recorded",
            "No training phases were recorded",
            "No verdicts were recorded",
            "No integrity checks were recorded",
            "no evaluation was recorded",
            "not evaluated",
            "its robust accuracy was not measured",
            "pruner: hydra",
        ):
            assert said in page.text, said


def test_failed_check_marks_the_run_and_the_headline(make_run: Make, tmp_path: Path) -> None:
    bad = evaluation(206, 130, 112)
    bad.checks["unbounded_attack_reaches_zero"] = Check(outcome="fail", number="3 of 9", how="PGD at eps 1")
    good = make_run("dense", method="dense", sparsity=0.0, scored=evaluation(230, 145, 128))
    _, page = report([good, make_run(scored=bad)], tmp_path)
    classes = [a.get("class") for _, a in page.tags]
    assert "headline suspect" in classes
    assert classes.count("number suspect") == 4
    assert "hydra-97 failed 1 integrity check (unbounded attack reaches zero - 3 of 9)" in page.text
    assert "FAIL" in page.text
    sound = make_run("sound", method="magnitude", sparsity=0.9)
    _, page = report([good, make_run(scored=bad), sound], tmp_path)
    assert "headline" in [a.get("class") for a in page.all("p")]
    assert "magnitude at 89.5 % sparsity keeps" in page.text


def test_a_check_that_warns_is_shown_and_condemns_nothing(make_run: Make, tmp_path: Path) -> None:
    odd = evaluation(206, 130, 112)
    odd.checks["gradients"] = Check(outcome="warn", number="7 % are zero", how="counted on 100 images")
    _, page = report([make_run(scored=odd)], tmp_path)
    for said in ("! warn", "7 % are zero", "counted on 100 images"):
        assert said in page.text
    classes = [a.get("class") for _, a in page.tags]
    assert " warn" in classes
    assert not any("suspect" in str(name) for name in classes)


def test_zero_accuracy_and_no_images(make_run: Make, tmp_path: Path) -> None:
    lost = make_run("dense", method="dense", sparsity=0.0, scored=evaluation(230, 20, 0))
    zero = make_run(scored=evaluation(0, 0, 0))
    _, page = report([lost, zero], tmp_path)
    assert "the dense network has no robust accuracy to keep" in page.text
    assert "0.0 % [0.0, 1.1]" in page.text
    nothing = evaluation(0, 0, 0, n=0)
    empty = make_run("empty", scored=nothing)
    _, page = report([lost, empty], tmp_path)
    assert "not measured" in page.text
    assert measure(0, 0, "x").n == 0


def test_network_with_nothing_prunable(make_run: Make, tmp_path: Path) -> None:
    record = result("odd", method="none", sparsity=0.0, scored=evaluation(206, 130, 112))
    layers = [LayerCount(name="a", shape=[0], kept=0, total=0)]
    bare = record.model_copy(update={"sparsity": SparsityCount(asked=0.0, kept=0, prunable=0, layers=layers)})
    _, page = report([write_run(tmp_path / "odd", bare), make_run()], tmp_path)
    assert "nothing prunable" in page.text


def test_fully_pruned_network_stays_off_the_log_axis(make_run: Make, tmp_path: Path) -> None:
    _, page = report([make_run(sparsity=1.0), make_run(sparsity=1.0)], tmp_path)
    assert "hydra at 100.0 % sparsity reaches a robust accuracy of 31.1 %" in page.text


def test_unlike_runs_are_not_subtracted(make_run: Make, tmp_path: Path) -> None:
    other = evaluation(230, 145, 128).model_copy(update={"threat": "l2, eps 1/2"})
    dense = make_run("dense", method="dense", sparsity=0.0, scored=other)
    _, page = report([dense, make_run()], tmp_path)
    assert "different threat models" in page.text
    assert "hydra-97: no dense run of the same data" in page.text
    assert "pp to dense" not in page.text


def test_same_names_are_told_apart(make_run: Make, tmp_path: Path) -> None:
    _, page = report([make_run(), make_run()], tmp_path)
    assert "hydra-97 #1" in page.text
    assert "hydra-97 #2" in page.text


def test_no_runs_and_unfinished_runs_are_errors(tmp_path: Path) -> None:
    with pytest.raises(HedgerowError, match="no runs given"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(CheckpointError, match="unfinished"):
        write_report([tmp_path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
