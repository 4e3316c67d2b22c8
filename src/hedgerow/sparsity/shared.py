"""The unit of coupled channels: groups that reach through several weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hedgerow.sparsity.topk import threshold_for, topk_mask
from hedgerow.sparsity.unit import Values


@dataclass(frozen=True, eq=False)
class Slices:
    """Where groups lie in one weight: group g has the indices `table[g]` of `axis`, int64 `[groups, width]`.

    `passes_on`: the weight only hands its channels on to layers whose slices go with them, so that it makes no
    difference to the network's answer whether its own slices are 0.
    """

    weight: str
    axis: int
    table: Tensor
    passes_on: bool = False

    def sums(self, magnitudes: Tensor) -> Tensor:
        """Return the sum of every group's entries, `[groups]`."""
        return self._gathered(magnitudes.sum(dim=self._others(magnitudes))).sum(dim=1)

    def norms(self, weight: Tensor) -> Tensor:
        """Return the l2 norm of every group's entries, `[groups]`."""
        parts = torch.linalg.vector_norm(weight, dim=self._others(weight))
        norms: Tensor = torch.linalg.vector_norm(self._gathered(parts), dim=1)
        return norms

    def spread(self, groups: Tensor, like: Tensor) -> Tensor:
        """Return values per group along `axis`, 1 at the indices of no group; 1-sized along the other axes."""
        line = torch.ones(like.shape[self.axis], dtype=groups.dtype, device=groups.device)
        line[self.table.to(groups.device)] = groups.unsqueeze(1)
        return line.view([-1 if axis == self.axis else 1 for axis in range(like.dim())])

    def _others(self, weight: Tensor) -> list[int]:
        return [axis for axis in range(weight.dim()) if axis != self.axis]

    def _gathered(self, line: Tensor) -> Tensor:
        return line[self.table.to(line.device)]


@dataclass(frozen=True, eq=False)
class Shared:
    """Channels that several weights have in common: a group is the slices of one channel class in all of them."""

    name: str
    slices: tuple[Slices, ...]

    @property
    def weights(self) -> tuple[str, ...]:
        """The weights that have these channels."""
        return tuple(part.weight for part in self.slices)

    @property
    def count(self) -> int:
        """How many channels there are."""
        return len(self.slices[0].table)

    def scores(self, magnitudes: Values) -> Tensor:
        """Return the sum over all slices of every channel, `[channels]`."""
        return torch.stack([part.sums(magnitudes[part.weight]) for part in self.slices]).sum(dim=0)

    def norms(self, weights: Values) -> Tensor:
        """Return the root of the sum of squares over all slices of every channel."""
        parts = torch.stack([part.norms(weights[part.weight]) for part in self.slices])
        norms: Tensor = torch.linalg.vector_norm(parts, dim=0)
        return norms

    def select(self, scores: Tensor, keep: int) -> Tensor:
        """Return which channels live."""
        return topk_mask(scores, keep)

    def cut(self, norms: Tensor, keep: int) -> Tensor:
        """Return what a channel has to exceed, a scalar."""
        return threshold_for(norms, keep)

    def passes_on(self, name: str) -> bool:
        """Tell whether a weight only hands these channels on to others that lose them too."""
        return self._part(name).passes_on

    def spread(self, groups: Tensor, name: str, like: Tensor) -> Tensor:
        """Return the values of `groups` along the channels of one weight."""
        return self._part(name).spread(groups, like)

    def _part(self, name: str) -> Slices:
        (part,) = [part for part in self.slices if part.weight == name]
        return part
