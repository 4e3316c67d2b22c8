"""What the terminal shows of an evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hedgerow.result import Corruptions, Evaluation


def evaluation_lines(record: Evaluation) -> list[str]:
    """Return the accuracies with how they were obtained, what was refused, and the checks that failed."""
    lines = [
        f"{name:<12} {measure.accuracy:7.2%}  [{measure.low:.2%}, {measure.high:.2%}]  "
        f"{measure.correct}/{measure.n}, seed {measure.seed}  {measure.how}"
        for name, measure in record.measures.items()
    ]
    if record.corruptions:
        lines += corruption_lines(record.corruptions)
    lines += [f"not run: {what} {why}" for what, why in record.refused.items()]
    return lines + failures(record)


def corruption_lines(found: Corruptions) -> list[str]:
    """Return the mean accuracy under common corruptions, and those of their families."""
    families = ", ".join(f"{family} {accuracy:.2%}" for family, accuracy in found.families.items())
    out = f"; without {', '.join(found.left_out)}" if found.left_out else ""
    return [f"corruptions  {found.accuracy:7.2%}  ({families})  {found.how}{out}"]


def failures(record: Evaluation | None) -> list[str]:
    """Return a line for each check that failed, then for each that warns."""
    found = record.checks if record else {}
    words = {"fail": "FAILED", "warn": "warning"}
    kinds = [(kind, name, check) for kind in words for name, check in found.items() if check.outcome == kind]
    return [f"{words[kind]}: {name} {check.number}".rstrip() for kind, name, check in kinds]
