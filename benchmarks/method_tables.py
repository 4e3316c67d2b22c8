"""Write the measured figures into docs/comparison.md and the page of every method, from results/*/summary.md.

    python benchmarks/method_tables.py          # write
    python benchmarks/method_tables.py --check  # say which pages are not current, and fail

What stands between the two `measured` comments of a page is made here; nothing else of the page is touched.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import published_order

ROOT = Path(__file__).parents[1]
START, END = "<!-- measured: made by benchmarks/method_tables.py -->", "<!-- /measured -->"
COMPARISON = ROOT / "docs" / "comparison.md"


def pages() -> dict[Path, str]:
    """Return what every page that has a measured part should be."""
    order = f"### Published orderings\n\n{published_order.markdown(published_order.kept())}"
    found = {COMPARISON: "\n\n".join([*(_whole(summary) for summary in _summaries()), order])}
    for page in sorted((ROOT / "docs" / "methods").glob("*.md")):
        found[page] = "\n\n".join(filter(None, (_rows(summary, page.stem) for summary in _summaries())))
    return {page: _filled(page.read_text(encoding="utf-8"), part) for page, part in found.items()}


def _filled(text: str, part: str) -> str:
    head, start, rest = text.partition(START)
    _, end, tail = rest.partition(END)
    return f"{head}{start}\n{part}\n{end}{tail}" if start and end else text


def _summaries() -> list[Path]:
    return [folder / "summary.md" for folder in published_order.kept()]


def _whole(summary: Path) -> str:
    return f"### {summary.parent.name}\n\n{summary.read_text(encoding='utf-8').strip()}"


def _rows(summary: Path, method: str) -> str:
    """Return the rows of one method and of the dense network, with what the figures are of."""
    text = summary.read_text(encoding="utf-8")
    table, _, rest = text.partition("\n\n")
    head, rule, *lines = table.splitlines()
    wanted = [line for line in lines if re.match(rf"\| {re.escape(method)}( \(|\s*\|)", line)]
    if not wanted:
        return ""
    dense = [line for line in lines if line.startswith("| dense ")]
    return "\n".join([head, rule, *dense, *wanted, "", f"{rest.splitlines()[0]} All methods: docs/comparison.md."])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = {page: text for page, text in pages().items() if page.read_text(encoding="utf-8") != text}
    for page, text in stale.items():
        print(f"{'not current' if check else 'written'}: {page.relative_to(ROOT)}")
        if not check:
            page.write_text(text, encoding="utf-8")
    sys.exit(1 if check and stale else 0)
