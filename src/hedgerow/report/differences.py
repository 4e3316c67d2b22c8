"""Which differences between methods are real: paired comparisons on the same test images."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from hedgerow.evaluation.statistics import Paired, holm, mcnemar
from hedgerow.report.table import Cell, Table, markdown_line
from hedgerow.result import Evaluation, Result

LEVEL = 0.05
_VERDICT = {"clean": lambda word: word != "misclassified", "worst_case": lambda word: word == "robust"}


@dataclass(frozen=True)
class Difference:
    """One method against the best at the same asked sparsity, seed by seed; `paired` counts the method first."""

    method: str
    best: str
    asked: float
    measure: str
    seeds: list[int]
    paired: list[Paired]

    @property
    def method_only(self) -> int:
        """Images, summed over seeds, that the method alone gets right."""
        return sum(pair.first_only for pair in self.paired)

    @property
    def best_only(self) -> int:
        """Images, summed over seeds, that the best alone gets right."""
        return sum(pair.second_only for pair in self.paired)

    @property
    def mean(self) -> float:
        """Mean over seeds of the accuracy of the method minus that of the best, -1 to 1."""
        return sum(pair.difference for pair in self.paired) / len(self.paired)

    @property
    def p(self) -> float:
        """The largest p of the seeds: the same images under several networks are not further images."""
        return max(pair.p for pair in self.paired)


def differences(results: Sequence[tuple[str, Result]], measure: str = "worst_case") -> list[Difference]:
    """Return every method of `(method, result)` against the best of its asked sparsity, by sparsity and method.

    Best is the largest mean accuracy over seeds. Pairs of the same seed are compared where both were evaluated on
    the same images, under the same threat and attacks; a method without such a pair is left out.
    """
    groups: dict[float, dict[str, dict[int, Evaluation]]] = {}
    for method, result in results:
        if result.evaluation is not None:
            seeds = groups.setdefault(result.sparsity.asked, {}).setdefault(method, {})
            seeds[int(result.recipe.get("seed", 0))] = result.evaluation
    found = []
    for asked, methods in sorted(groups.items()):
        best = max(sorted(methods), key=lambda name: _mean(methods[name], measure))
        for method in sorted(methods):
            pairs = {
                seed: mcnemar(_flags(mine, measure), _flags(methods[best][seed], measure))
                for seed, mine in sorted(methods[method].items())
                if method != best and seed in methods[best] and _comparable(mine, methods[best][seed])
            }
            if pairs:
                found.append(Difference(method, best, asked, measure, list(pairs), list(pairs.values())))
    return found


def differences_markdown(found: Sequence[Difference]) -> str:
    """Return the table of differences with what its columns mean, or nothing where nothing was compared."""
    if not found:
        return ""
    table = differences_table(found)
    rule = f"|---:|---|---|{'---:|' * 4}---|"
    rows = [markdown_line([cell.text for cell in row]) for row in table.rows]
    return "\n".join([markdown_line(table.headings), rule, *rows, "", *table.notes]) + "\n"


def differences_table(found: Sequence[Difference]) -> Table:
    """Return a row per method that was compared, and what the columns mean."""
    rows = []
    for one, real in zip(found, holm([one.p for one in found], LEVEL), strict=True):
        rows.append(
            [
                Cell(f"{100 * one.asked:.4g} %", value=one.asked),
                Cell(one.method),
                Cell(one.best),
                Cell(f"{100 * one.mean:+.1f} pp", value=one.mean),
                Cell(str(one.method_only)),
                Cell(str(one.best_only)),
                Cell(f"{one.p:.2g}", value=one.p),
                Cell("yes" if real else "not shown"),
            ]
        )
    note = (
        "Exact McNemar tests on the same test images, correct under every attack; images that only one of two "
        "networks gets right, summed over seeds; p is the largest of the seeds, and `differs` holds for all rows "
        f"together at {100 * LEVEL:g} % (Holm). The best was chosen by the same images."
    )
    headings = [
        "asked",
        "method",
        "against the best",
        "difference",
        "only the method",
        "only the best",
        "p",
        "differs",
    ]
    return Table("differences", "Which differences are real", headings, rows, words=3, notes=[note])


def differences_csv(found: Sequence[Difference]) -> str:
    """Return one row per method, measure and seed, with all four counts."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    counts = ["both", "method_only", "best_only", "neither"]
    writer.writerow(["sparsity_asked", "method", "best", "measure", "seed", *counts, "p"])
    for one in found:
        for seed, pair in zip(one.seeds, one.paired, strict=True):
            values = [pair.both, pair.first_only, pair.second_only, pair.neither, pair.p]
            writer.writerow([one.asked, one.method, one.best, one.measure, seed, *values])
    return buffer.getvalue()


def _flags(evaluation: Evaluation, measure: str) -> list[bool]:
    return [_VERDICT[measure](word) for word in evaluation.verdicts]


def _mean(evaluations: dict[int, Evaluation], measure: str) -> float:
    return sum(sum(_flags(e, measure)) / max(len(e.verdicts), 1) for e in evaluations.values()) / len(evaluations)


def _comparable(one: Evaluation, other: Evaluation) -> bool:
    return (one.split, one.threat, one.examples) == (other.split, other.threat, other.examples) and (
        set(one.measures) - {"verified"} == set(other.measures) - {"verified"}
    )
