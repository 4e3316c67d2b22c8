"""From a matplotlib figure to an SVG inside a page, light or dark, or to a file: same bytes each time."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

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


@dataclass(frozen=True)
class Plot:
    """A figure that is drawn when it is asked for; in a template it stands for its inline SVG.

    `name` must be unique in the page (ids start with it, files are called by it); `label` says in words what it
    shows. One inch becomes 72 units, so that a figure 5 inches wide keeps its text readable on a phone.
    """

    name: str
    label: str
    inches: tuple[float, float]
    paint: Callable[[Figure], None]

    def __html__(self) -> str:
        """Return the SVG as a part of a page, in the page's text colour."""
        return self._inline

    @cached_property
    def _inline(self) -> str:
        with self._painted() as figure:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        return inline(buffer.getvalue(), self.name, self.label)

    def svg(self) -> str:
        """Return the content of an SVG file, which needs what a page does without."""
        return self.__html__().replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)

    def png(self) -> bytes:
        """Return a PNG file: black on white, 200 pixels to the inch, with the label as its description."""
        with self._painted() as figure:
            figure.set_facecolor("#ffffff")
            buffer = io.BytesIO()
            about = {"Software": None, "Description": self.label}
            figure.savefig(buffer, format="png", dpi=200, facecolor="#ffffff", metadata=about)
        return buffer.getvalue()

    @contextmanager
    def _painted(self) -> Iterator[Figure]:
        import matplotlib
        from matplotlib.figure import Figure

        defaults: dict[str, Any] = dict(matplotlib.rcParamsDefault.items())
        settings: Any = {k: v for k, v in defaults.items() if not _NOT_STYLE.match(k)} | _STYLE
        with matplotlib.rc_context(settings | {"svg.hashsalt": self.name}), warnings.catch_warnings():
            # The reader's browser has the fonts.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure = Figure(figsize=self.inches, layout="constrained")
            self.paint(figure)
            yield figure


def inline(svg: bytes, name: str, label: str) -> str:
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
    return ElementTree.tostring(root, encoding="unicode")


def ink_on(colour: str) -> str:
    """Return black or white, whichever is easier to read on a colour `#rrggbb`; 4.5:1 or more on any."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#000000" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "#ffffff"


def plain_ticks(axes: Axes) -> None:
    """Remove the tick marks; the grid is enough."""
    axes.tick_params(length=0, which="both")


def _own(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key.endswith("href"):
        return value.replace("#", f"#{name}-", 1)
    return value.replace("url(#", f"url(#{name}-").replace(FOREGROUND, "currentColor")
