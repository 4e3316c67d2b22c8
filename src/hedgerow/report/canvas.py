"""From a matplotlib figure to an SVG that sits inside a page: same bytes each time, light or dark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOREGROUND = "#010203"  # stands for the page's text colour until the SVG is finished

# Mid-tones, at least 3:1 against both page backgrounds; told apart with any usual colour blindness,
# and never the only difference: markers and line styles go along.
PALETTE = ("#2f83c5", "#d0731b", "#239575", "#b25ca6", "#8f8a24", "#c9524a", "#5f7f95", "#7c6fd0")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "text.color": FOREGROUND,
    "axes.labelcolor": FOREGROUND,
    "axes.edgecolor": FOREGROUND,
    "axes.facecolor": "none",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FOREGROUND,
    "grid.alpha": 0.16,
    "grid.linewidth": 0.6,
    "xtick.color": FOREGROUND,
    "ytick.color": FOREGROUND,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "hatch.linewidth": 0.6,
}
_NOT_STYLE = re.compile(r"^(backend|interactive|toolbar|timezone|date|webagg|tk|savefig\.dir|_)")


def draw(name: str, label: str, inches: tuple[float, float], paint: Callable[[Figure], None]) -> Markup:
    """Paint a figure and return it as inline SVG markup.

    `name` must be unique in the page (ids start with it); `label` says in words what the plot shows. One inch
    becomes 72 units, so that a figure 5 inches wide keeps its text readable on a phone.
    """
    import matplotlib
    from matplotlib.figure import Figure

    defaults: dict[str, Any] = dict(matplotlib.rcParamsDefault.items())
    settings: Any = {k: v for k, v in defaults.items() if not _NOT_STYLE.match(k)} | _STYLE
    buffer = io.BytesIO()
    with matplotlib.rc_context(settings | {"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the reader's browser has the fonts
        figure = Figure(figsize=inches, layout="constrained")
        paint(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return inline(buffer.getvalue(), name, label)


def inline(svg: bytes, name: str, label: str) -> Markup:
    """Make a stand-alone SVG part of a page: own ids, the page's text colour, a label, no style sheet."""
    root = ElementTree.fromstring(svg)
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {k.rpartition("}")[2]: _own(k, v, name) for k, v in element.attrib.items()}
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib.update({"role": "img", "aria-label": label})
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def standalone(svg: Markup) -> str:
    """Return a drawn figure as the content of a file of its own, which needs what a page does without."""
    return str(svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)


def plain_ticks(axes: Axes) -> None:
    """Remove the tick marks; the grid is enough."""
    axes.tick_params(length=0, which="both")


def _own(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key.endswith("href"):
        return value.replace("#", f"#{name}-", 1)
    return value.replace("url(#", f"url(#{name}-").replace(FOREGROUND, "currentColor")
