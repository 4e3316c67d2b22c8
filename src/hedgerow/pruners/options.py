"""Checks that options of several methods share."""

from __future__ import annotations

import math


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise `ValueError` unless the option is one of those."""
    if value not in allowed:
        raise ValueError(f"{name} {value!r} is not known; allowed: {', '.join(allowed)}")


def check_positive(**options: float) -> None:
    """Raise `ValueError` for the first option that is not a positive finite number."""
    for name, value in options.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} {value:g} is not a positive number")


def check_share(**options: float) -> None:
    """Raise `ValueError` for the first option that is not between 0 and 1."""
    for name, value in options.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} {value:g} is not in [0, 1]; it is a share of the phase")
