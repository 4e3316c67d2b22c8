"""What a search may choose: `KEY=log:0.001:0.1`, `KEY=0:1`, `KEY=int:1:10`, `KEY=cosine,step`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from hedgerow.errors import RecipeError

Values = str | int | float | bool | None


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; by their logarithm, or whole ones alone."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    @property
    def examples(self) -> list[Any]:
        """Values that stand for all: the ends."""
        return [int(self.low), int(self.high)] if self.whole else [self.low, self.high]


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Values, ...]

    @property
    def examples(self) -> list[Any]:
        """Values that stand for all: all."""
        return list(self.values)


Space = dict[str, Range | Choice]


def parse_product(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Return `{"a.b": [value, ...]}` of `a.b=value,value` texts, values read as YAML; `RecipeError` for others."""
    found: dict[str, list[Any]] = {}
    problems: list[str] = []
    for text in texts:
        key, value = _split("--grid", text, found, problems)
        listed = _listed("--grid", text, value, problems) if key else []
        if listed:
            found[key] = listed
    if problems:
        raise RecipeError("command line", problems)
    return found


def parse_space(texts: Sequence[str]) -> Space:
    """Return the ranges and choices of `a.b=log:0.001:0.1` and other texts; `RecipeError` lists all problems."""
    found: Space = {}
    problems: list[str] = []
    for text in texts:
        key, value = _split("--search", text, found, problems)
        if not key:
            continue
        parts = value.split(":")
        if len(parts) == 2 or (len(parts) == 3 and parts[0] in ("log", "int")):
            one: Range | Choice | None = _range(text, parts, problems)
        else:
            listed = _listed("--search", text, value, problems)
            if len(listed) == 1:
                problems.append(f"--search {text}: one value is no choice; --set fixes a key")
            if any(isinstance(v, dict | list) for v in listed):
                problems.append(f"--search {text}: choices are numbers and words")
            one = Choice(tuple(listed)) if listed else None
        if one is not None:
            found[key] = one
    if problems:
        raise RecipeError("command line", problems)
    return found


def _split(option: str, text: str, found: Mapping[str, Any], problems: list[str]) -> tuple[str, str]:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key or not value:
        example = "pruning.sparsity=0.9,0.95" if option == "--grid" else "phases.prune.lr=log:0.001:0.1"
        problems.append(f"{option} {text}: expected KEY=VALUES, such as {example}")
        return "", ""
    if key in found:
        problems.append(f"{option} {text}: {key} is there twice; write all of its values once")
        return "", ""
    return key, value


def _listed(option: str, text: str, value: str, problems: list[str]) -> list[Any]:
    try:
        return list(yaml.safe_load(f"[{value}]"))
    except (yaml.YAMLError, TypeError) as error:
        problems.append(f"{option} {text}: not a list of YAML values ({' '.join(str(error).split())})")
        return []


def _range(text: str, parts: Sequence[str], problems: list[str]) -> Range | None:
    kind = parts[0] if len(parts) == 3 else ""
    try:
        low, high = (int(p) if kind == "int" else float(p) for p in parts[-2:])
    except ValueError:
        problems.append(f"--search {text}: expected two {'whole ' if kind == 'int' else ''}numbers")
        return None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        problems.append(f"--search {text}: {low:g} is not below {high:g}, or not finite")
        return None
    if kind == "log" and low <= 0:
        problems.append(f"--search {text}: a logarithmic range starts above 0")
        return None
    return Range(low, high, log=kind == "log", whole=kind == "int")
