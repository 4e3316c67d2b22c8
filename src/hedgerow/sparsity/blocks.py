"""Granularities that hardware runs: n of every m inputs, and rectangular blocks; and how they are written.

Both see a weight as a matrix `[out, K]`, one row per output. Its K columns are the inputs of that output with the
kernel's positions first and the channels within each, as implicit matrix multiplication reads a convolution: for
`[out, in, kh, kw]` column `(y * kw + x) * in + c`. Neighbours are thus channels at one position of the kernel.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional as F

from hedgerow.sparsity.granularity import GRANULARITIES, Granularity

EXAMPLES = ("weight", "kernel", "channel", "filter", "block-4x1", "2:4")
"""One granularity of each family that comes with the package."""


def as_rows(weight: Tensor) -> Tensor:
    """Return `weight` `[out, in, *kernel]` as the matrix `[out, K]`."""
    return weight.movedim(1, -1).flatten(1)


def from_rows(matrix: Tensor, shape: torch.Size) -> Tensor:
    """Return the tensor of this shape whose matrix is `matrix`: the inverse of `as_rows`."""
    tensor = matrix.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
    # With one channel contiguous() would leave strides that convolutions take for channels-last.
    return tensor.clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class Blocks(Granularity):
    """Blocks of `height` outputs by `width` columns; at the lower and right edges they may be smaller."""

    height: int = 1
    width: int = 1

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or self.height * self.width == 1:
            raise ValueError(
                f"{self.name!r} is no block of outputs x inputs with at least two weights, such as block-4x1"
            )

    @property
    def family(self) -> str:
        """`block`."""
        return "block"

    def _tiles(self, weight: Tensor) -> Tensor:
        """Return `[rows of blocks, height, columns of blocks, width]`, zeros beyond the edges."""
        matrix = as_rows(weight)
        beyond = (0, -matrix.shape[1] % self.width, 0, -matrix.shape[0] % self.height)
        padded = F.pad(matrix, beyond) if any(beyond) else matrix
        rows, columns = (side // size for side, size in zip(padded.shape, (self.height, self.width), strict=True))
        return padded.reshape(rows, self.height, columns, self.width)

    def scores(self, magnitudes: Tensor) -> Tensor:
        """Return the sum of the non-negative `magnitudes` of every block, `[rows, columns]` of blocks."""
        return self._tiles(magnitudes).sum(dim=(1, 3))

    def norms(self, weight: Tensor) -> Tensor:
        """Return the l2 norm of every block; its gradient at 0 is 0."""
        norms: Tensor = torch.linalg.vector_norm(self._tiles(weight), dim=(1, 3))
        return norms

    def expand(self, groups: Tensor, weight: Tensor) -> Tensor:
        """Return the values of `groups` at every entry of its block."""
        outputs, columns = weight.shape[0], weight[0].numel()
        tall = groups.repeat_interleave(self.height, 0)[:outputs]
        return from_rows(tall.repeat_interleave(self.width, 1)[:, :columns], weight.shape)

    def count(self, weight: Tensor) -> int:
        """Return the number of blocks, those at the edges included."""
        return math.ceil(weight.shape[0] / self.height) * math.ceil(weight[0].numel() / self.width)

    def remark(self, weight: Tensor) -> str | None:
        """Say where blocks are cut off at an edge, and where one block is all there is."""
        outputs, columns = weight.shape[0], weight[0].numel()
        if self.count(weight) == 1:
            return f"one block of {self.name} holds all {outputs}x{columns} weights, so they stay whole"
        rest = [
            f"{size % side} of {size} {what}"
            for side, size, what in ((self.height, outputs, "outputs"), (self.width, columns, "inputs"))
            if size % side
        ]
        return f"{' and '.join(rest)} do not fill a {self.name}: blocks at the edge are smaller" if rest else None


@dataclass(frozen=True)
class NofM(Granularity):
    """Of every `m` neighbouring columns of a row the `n` largest weights stay; a group is a single weight.

    A row's last group is shorter if m does not divide the row: of its r weights ceil(r * n / m) stay. The pattern
    fixes the density of every layer, so there is nothing left for a budget to say.
    """

    n: int = 1
    m: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m:
            raise ValueError(f"{self.name!r} is not n:m with 1 <= n < m, such as 2:4 (2 of every 4 weights stay)")

    @property
    def family(self) -> str:
        """`n:m`."""
        return "n:m"

    @property
    def density(self) -> Fraction:
        """The share n / m."""
        return Fraction(self.n, self.m)

    def fixed_keep(self, weight: Tensor) -> int:
        """Return how many weights the pattern keeps."""
        full, rest = divmod(weight[0].numel(), self.m)
        return weight.shape[0] * (full * self.n + self._rest(rest))

    def _rest(self, size: int) -> int:
        return math.ceil(size * self.density)

    def _live(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the columns of every group, `[out, groups, m]`, -1 beyond the edge, and which of them live."""
        rows = as_rows(scores.detach())
        if rows.sum().isnan():
            raise ValueError("a score is NaN; no mask can be chosen")
        padded = F.pad(rows, (0, -rows.shape[1] % self.m), value=-1.0)
        groups = padded.reshape(len(rows), -1, self.m)
        place = torch.arange(self.m, device=rows.device)
        rank = torch.zeros_like(groups, dtype=torch.int32)
        for i in range(self.m):  # of equal ones the first is removed first
            other = groups[..., i : i + 1]
            rank += (other < groups) | ((other == groups) & (i < place))
        kept = torch.full((groups.shape[1], 1), self.n, device=rows.device)
        if rows.shape[1] % self.m:
            kept[-1] = self._rest(rows.shape[1] % self.m)
        return groups, rank >= self.m - kept

    def select(self, scores: Tensor, keep: int) -> Tensor:
        """Return which weights live: of every group those of largest score; `keep` has to be the pattern's."""
        if keep != self.fixed_keep(scores):
            fixed = self.fixed_keep(scores)
            raise ValueError(f"{self.name} keeps {fixed} of {scores.numel()} weights, not {keep}")
        return self._ungrouped(self._live(scores)[1], scores)

    def cut(self, norms: Tensor, keep: int) -> Tensor:
        """Return, for every weight, the largest norm that is removed from its group; 0 where none is."""
        groups, live = self._live(norms)
        removed = groups.masked_fill(live, 0.0).amax(dim=-1, keepdim=True).clamp(min=0.0)
        return self._ungrouped(removed.expand_as(groups), norms)

    def _ungrouped(self, groups: Tensor, weight: Tensor) -> Tensor:
        return from_rows(groups.flatten(1)[:, : weight[0].numel()], weight.shape)

    def remark(self, weight: Tensor) -> str | None:
        """Say what stays of a shorter group at the end of a row."""
        columns = weight[0].numel()
        rest = columns % self.m
        if not rest:
            return None
        stay = self._rest(rest)
        return f"{self.m} does not divide its {columns} inputs: of the last {rest} of every row {stay} stay"


def parse_granularity(text: str) -> Granularity:
    """Return the granularity of a name: `n:m`, `block-HEIGHTxWIDTH`, or one that is registered.

    Raises `ValueError` for impossible sizes, `UnknownNameError` for a name that is not known.
    """
    pattern, block = re.fullmatch(r"(\d+):(\d+)", text), re.fullmatch(r"block-(\d+)x(\d+)", text)
    if pattern:
        return NofM(f"{int(pattern[1])}:{int(pattern[2])}", n=int(pattern[1]), m=int(pattern[2]))
    if block:
        return Blocks(text, height=int(block[1]), width=int(block[2]))
    if text.startswith("block"):
        raise ValueError(f"{text!r} is not block-HEIGHTxWIDTH, such as block-4x1 (4 outputs by 1 input)")
    return GRANULARITIES[text]
