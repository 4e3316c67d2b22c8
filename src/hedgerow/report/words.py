"""Numbers and names as people read them."""

from __future__ import annotations

from fractions import Fraction

MINUS = "\u2212"
TIMES = "\u00d7"

MEASURES = {"clean": "Clean", "pgd": "PGD", "autoattack": "AutoAttack", "worst_case": "Worst case"}
OTHER_ATTACKS = {
    "apgd-ce": "APGD-CE",
    "apgd-dlr": "APGD-DLR",
    "apgd-t": "APGD-T",
    "cw": "C&W l2",
    "fab": "FAB",
    "fab-t": "FAB-T",
    "fast": "Fast protocol",
    "fgsm": "FGSM",
    "ifgsm": "IFGSM",
    "square": "Square",
}


def measure_name(key: str) -> str:
    """Return the column heading of a measure."""
    return {**MEASURES, **OTHER_ATTACKS}.get(key, printable(key).replace("_", " ").capitalize())


def percent(share: float, digits: int = 1) -> str:
    """Return a share (0 to 1) as a percentage, with more digits where rounding would read 0 or 100 %."""
    number = 100 * share
    while digits < 4 and 0 < share < 1 and float(f"{number:.{digits}f}") in (0.0, 100.0):
        digits += 1
    return f"{number:.{digits}f} %"


def points(difference: float) -> str:
    """Return a difference of two shares as signed percentage points."""
    number = f"{abs(100 * difference):.1f}"
    sign = "\u00b1" if number == "0.0" else ("+" if difference > 0 else MINUS)
    return f"{sign}{number} pp"


def count(number: int) -> str:
    """Return a whole number with thousands separated."""
    return f"{number:,}"


def short_count(number: int) -> str:
    """Return a whole number in at most five characters: `1,234` becomes `1.2k`."""
    for limit, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return str(number)


def radius(eps: str) -> str:
    """Return a radius that is a fraction in whole 255ths where it is one: `1/51` becomes `5/255`."""
    steps = 255 * Fraction(eps)
    return f"{steps.numerator}/255" if steps.denominator == 1 else eps


def size(number: int) -> str:
    """Return a number of bytes in decimal units (1 MB = 1,000,000 bytes)."""
    for limit, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= limit:
            return f"{number / limit:.2f} {unit}"
    return f"{number} B"


def duration(seconds: float) -> str:
    """Return a duration as `1 h 02 min`, `3 min 04 s` or `5.6 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def printable(text: str) -> str:
    """Return the text with control and direction characters replaced, so that it cannot disturb its line."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def shorten(text: str, length: int) -> str:
    """Return printable text of at most `length` characters, cut in the middle with an ellipsis."""
    text = printable(text)
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}\u2026{text[len(text) - (length - 1 - head) :]}"


def plural(number: int, noun: str) -> str:
    """Return `1 run`, `2 runs`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
