"""Which method goes with which granularity and distribution: one answer for recipes, commands and documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from hedgerow.pruners.base import PRUNERS, Pruner, form_refusal
from hedgerow.sparsity import DISTRIBUTIONS, GRANULARITIES, Granularity, budget_conflict, parse_granularity
from hedgerow.sparsity.blocks import EXAMPLES


@dataclass(frozen=True)
class Combination:
    """A method, what it removes together, how its budget is spread; `refusal` says why not, None if it goes."""

    method: str
    granularity: str
    distribution: str
    refusal: str | None


def refusal(
    method: type[Pruner], granularity: Granularity, distribution: str, sparsity: Fraction | None = None
) -> str | None:
    """Return why these do not go together, or None if they do; at any sparsity if none is given."""
    return form_refusal(method, granularity) or budget_conflict(granularity, distribution, sparsity)


def granularity_examples() -> tuple[str, ...]:
    """Return one granularity of each family, those that were registered since at the end."""
    return (*EXAMPLES, *(name for name in GRANULARITIES if name not in EXAMPLES))


def combinations() -> Iterator[Combination]:
    """Yield the answer for every registered method, every granularity and every registered distribution."""
    for method in PRUNERS:
        for name in granularity_examples():
            for distribution in DISTRIBUTIONS:
                reason = refusal(PRUNERS[method], parse_granularity(name), distribution)
                yield Combination(method, name, distribution, reason)


def markdown() -> str:
    """Return all combinations as a Markdown table, with the reason for every one that is refused below it."""
    found = list(combinations())
    columns, spreads = granularity_examples(), list(DISTRIBUTIONS)
    lines = [f"| method | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    reasons = dict.fromkeys(c.refusal for c in found if c.refusal)
    for method in PRUNERS:
        cells = []
        for name in columns:
            these = [c for c in found if (c.method, c.granularity) == (method, name)]
            cells.append(_cell([c.distribution for c in these if c.refusal is None], spreads))
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    legend = f"all: with every distribution ({', '.join(spreads)}); -: with none."
    return "\n".join([*lines, "", legend, "", *(f"- {_sentence(reason)}" for reason in reasons)]) + "\n"


def _cell(allowed: list[str], everything: list[str]) -> str:
    return "-" if not allowed else "all" if allowed == everything else ", ".join(allowed)


def _sentence(reason: str) -> str:
    return reason if reason.endswith(".") else f"{reason}."
