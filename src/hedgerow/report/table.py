"""A table once, in all its forms: what the page shows, and CSV, Markdown and LaTeX files of the same cells."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from hedgerow.report.words import printable

Value = str | int | float | None

# Outside what LaTeX reads as plain text; marks of pass and fail have their words beside them.
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\u2212": "$-$",
    "\u00d7": r"$\times$",
    "\u00b1": r"$\pm$",
    "\u26a0": "(!)",
    "\u2713": "",
    "\u2717": "",
    "\ufffd": "?",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


@dataclass(frozen=True)
class Cell:
    """A number as shown, a smaller line under it, how it was obtained, and its value for programs."""

    text: str
    hover: str = ""
    note: str = ""
    suspect: bool = False
    value: Value = None
    tone: str = ""
    anchor: str = ""

    @property
    def plain(self) -> str:
        """The cell in one line of text."""
        mark = " \u26a0" if self.suspect else ""
        return f"{self.text}{mark} ({self.note})" if self.note else f"{self.text}{mark}"


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings; the first cell of a row names it, the first `words` columns are text.

    `name` is that of its files and must be unique among the tables of a page.
    """

    name: str
    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: int = 1
    notes: Sequence[str] = field(default_factory=list)

    @property
    def hints(self) -> int:
        """How many cells say how they were obtained."""
        return sum(bool(cell.hover) for row in self.rows for cell in row)

    def csv(self) -> str:
        """Return the values, under the headings as shown."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.headings)
        writer.writerows([c.text if c.value is None else c.value for c in row] for row in self.rows)
        return buffer.getvalue()

    def markdown(self) -> str:
        """Return the table as Markdown, its caption above and its notes below."""
        rule = ["---"] * self.words + ["---:"] * (len(self.headings) - self.words)
        lines = [markdown_line(self.headings), markdown_line(rule)]
        lines += [markdown_line([cell.plain for cell in row]) for row in self.rows]
        notes = ["", *(f"- {markdown_text(note)}" for note in self.notes)] if self.notes else []
        return "\n".join([markdown_text(self.caption), "", *lines, *notes]) + "\n"

    def latex(self) -> str:
        """Return the table as a LaTeX `table` environment that needs no package."""
        columns = "l" * self.words + "r" * (len(self.headings) - self.words)
        rows = [_latex_line([cell.plain for cell in row]) for row in self.rows]
        notes = [rf"\par\footnotesize {latex_text(note)}" for note in self.notes]
        lines = [
            r"\begin{table}",
            rf"\caption{{{latex_text(self.caption)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\hline",
            _latex_line(self.headings),
            r"\hline",
            *rows,
            r"\hline",
            r"\end{tabular}",
            *notes,
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"


def markdown_line(cells: Sequence[str]) -> str:
    """Return a row of a Markdown table, whatever is in the cells."""
    return "| " + " | ".join(map(markdown_text, cells)) + " |"


def markdown_text(text: str) -> str:
    """Return text that Markdown shows as it is, in one line."""
    plain = html.escape(text, quote=False).replace("\\", "\\\\").replace("|", "\\|")
    return " ".join(plain.split())


def latex_text(text: str) -> str:
    """Return text that LaTeX prints as it is, in one line."""
    return " ".join("".join(_LATEX.get(c, c) for c in printable(text)).split())


def file_name(text: str) -> str:
    """Return a name for a file: letters, digits, dots and dashes of the text."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.") or "unnamed"


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(map(latex_text, cells)) + r" \\"
