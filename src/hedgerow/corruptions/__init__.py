"""Common corruptions (Hendrycks and Dietterich, 1903.12261), computed on the fly.

Weather, spatter, glass blur and elastic transforms are not among them: `ABSENT` says so wherever a mean over all
is stated.
"""

from __future__ import annotations

from hedgerow.corruptions.base import CORRUPTIONS, SEVERITIES, Corruption, Family, Place, corrupt, corruption_of
from hedgerow.registry import import_folder

import_folder(__name__, list(__path__))

_TEXTURES = "needs photographs or a renderer of particles, and no library that we use has them"
_MOVES = "moves pixels about; not computed here"
ABSENT = {
    "snow": _TEXTURES,
    "frost": _TEXTURES,
    "fog": _TEXTURES,
    "spatter": _TEXTURES,
    "glass-blur": _MOVES,
    "elastic": _MOVES,
}
"""Corruptions that are published under these names and not computed here, and why."""

__all__ = ["ABSENT", "CORRUPTIONS", "SEVERITIES", "Corruption", "Family", "Place", "corrupt", "corruption_of"]
