"""Which tiles cover a map of outputs."""

from __future__ import annotations

from itertools import product

Region = tuple[int, int, int, int, int, int]
"""Top, bottom, left, right, and the rows and columns of the tile; these divide the region."""

_PER_TILE = 3.0  # what a tile costs beside its vectors, in vectors: the weight, the loop, the end of a list
_PER_KERNEL = 1.02  # a second size of tile is another kernel to compile


def tiles(height: int, width: int, *, most: int) -> list[Region]:
    """Return the regions that cover a map with tiles of at most `most` vectors at the least cost.

    Of equally good ones the widest tile is taken: its inputs lie in the fewest rows.
    """
    best: tuple[float, int, list[Region]] | None = None
    for rows in range(1, min(height, most) + 1):
        for cols in range(1, min(width, most // rows) + 1):
            regions = cover(height, width, rows, cols)
            cost = sum(
                (end - top) * (right - left) * (1 + _PER_TILE / (h * w)) for top, end, left, right, h, w in regions
            )
            cost *= _PER_KERNEL ** (len(regions) - 1)
            found = (round(cost, 6), rows, regions)
            best = found if best is None or found < best else best
    return [] if best is None else best[2]


def slice_of(length: int, stride: int, reach: int) -> int:
    """Return how many inputs along an axis so many outputs read."""
    return (length - 1) * stride + reach


def cover(height: int, width: int, rows: int, cols: int) -> list[Region]:
    """Return the regions of a map in tiles of `rows` and `cols`, and of what is left at its ends."""
    return [
        (top, bottom, left, right, h, w)
        for (top, bottom, h), (left, right, w) in product(_parts(height, rows), _parts(width, cols))
    ]


def _parts(length: int, part: int) -> list[tuple[int, int, int]]:
    whole = length // part * part
    rest = [(whole, length, length - whole)] if whole < length else []
    return [(0, whole, part), *rest]


def chains(vectors: int, most: int) -> int:
    """Return how many partial sums, 1, 2 or 4, to run beside each other in a tile of so many vectors."""
    return 4 if 4 * vectors <= most else 2 if 2 * vectors <= most else 1
