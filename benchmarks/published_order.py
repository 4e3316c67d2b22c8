"""Check published orderings of methods on the kept comparisons: paired on the same test images, seed by seed.

    python benchmarks/published_order.py                          # the table of docs/comparison.md
    python benchmarks/published_order.py results/digits-methods

Compared is what is correct under every attack run. A claim that a comparison has no two cells for is left out.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from hedgerow.compare import finished_results, labelled
from hedgerow.evaluation.statistics import holm, mcnemar
from hedgerow.report.differences import Difference
from hedgerow.report.table import markdown_line
from hedgerow.result import Result

ROOT = Path(__file__).parents[1]
LEVEL = 0.05


@dataclass(frozen=True)
class Claim:
    """`first` beats `second`, or is at least `near` it, where both are asked for the same sparsity."""

    first: str
    second: str
    asked: float
    source: str
    near: bool = False


GROUPS = "group methods below weight methods (RGSM, RVSM: 2003.00631)"
CLAIMS = [
    Claim("hydra", "magnitude", 0.99, "HYDRA over LWM (2002.10509)"),
    Claim("harp", "hydra", 0.99, "HARP over HYDRA (2412.14714)"),
    *(Claim("rvsm", "rgsm (channel)", asked, GROUPS) for asked in (0.9, 0.95, 0.99)),
    Claim("dnr", "hydra", 0.95, "DNR, without pretraining, near its peers (2011.03083)", near=True),
    Claim("dnr", "admm", 0.95, "DNR, without pretraining, near its peers (2011.03083)", near=True),
]


@dataclass(frozen=True)
class Finding:
    """A claim on one comparison: removed shares of the weights, and a paired count for every seed."""

    claim: Claim
    removed: tuple[float, float]
    paired: Difference

    def verdict(self, real: bool) -> str:
        """Return what the comparison says of the claim; `real` if the difference is significant among all rows."""
        ahead = self.paired.mean > 0
        if self.claim.near:
            return "yes, ahead" if real and ahead else "no, behind" if real else "yes, no difference shown"
        if real:
            return "yes" if ahead else "no, the other way round"
        direction = "same direction" if ahead else "other direction" if self.paired.mean else "equal"
        return f"not shown, {direction}"


def findings(folder: Path) -> list[Finding]:
    """Return what a kept comparison says of every claim that it has both cells for."""
    cells: dict[tuple[str, float], dict[int, Result]] = {}
    for method, result in labelled(finished_results(folder)):
        cells.setdefault((method, result.sparsity.asked), {})[int(result.recipe.get("seed", 0))] = result
    found = []
    for claim in CLAIMS:
        first, second = (cells.get((name, claim.asked), {}) for name in (claim.first, claim.second))
        seeds = sorted(first.keys() & second.keys())
        if seeds:
            pairs = [mcnemar(_stands(first[seed]), _stands(second[seed])) for seed in seeds]
            paired = Difference(claim.first, claim.second, claim.asked, "worst_case", seeds, pairs)
            found.append(Finding(claim, (_removed(first), _removed(second)), paired))
    return found


def _stands(result: Result) -> list[bool]:
    return [word == "robust" for word in result.evaluation.verdicts] if result.evaluation else []


def _removed(runs: dict[int, Result]) -> float:
    return sum(run.sparsity.counted for run in runs.values()) / len(runs)


def markdown(folders: list[Path]) -> str:
    """Return the table of all claims on all comparisons, with what its columns mean."""
    rows = [(folder.name, one) for folder in folders for one in findings(folder)]
    real = holm([one.paired.p for _, one in rows], LEVEL)
    heads = ["published", "comparison", "asked", "compared (weights removed)", "difference", "p", "holds here"]
    lines = [markdown_line(heads), "|---|---|---:|---|---:|---:|---|"]
    for (name, one), significant in zip(rows, real, strict=True):
        pair = zip((one.claim.first, one.claim.second), one.removed, strict=True)
        compared = " against ".join(f"{method} ({share:.1%})" for method, share in pair)
        shares = [
            f"{100 * one.claim.asked:.4g} %",
            compared,
            f"{100 * one.paired.mean:+.1f} pp",
            f"{one.paired.p:.2g}",
        ]
        lines.append(markdown_line([one.claim.source, name, *shares, one.verdict(significant)]))
    note = (
        "Correct under every attack run; exact McNemar tests on the same test images, p the largest of the seeds, "
        f"called shown where they hold for all rows together at {100 * LEVEL:g} % (Holm)."
    )
    return "\n".join([*lines, "", note])


def kept() -> list[Path]:
    """Return the folders of the comparisons that are kept."""
    return sorted(file.parent for file in ROOT.glob("results/*/summary.md"))


if __name__ == "__main__":
    print(markdown([Path(word) for word in sys.argv[1:]] or kept()))
