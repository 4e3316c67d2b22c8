"""Max pooling between two functions that are linear in its input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hedgerow.bounds.curves import Slope
from hedgerow.bounds.inner import inner
from hedgerow.tracing import Node


@dataclass(frozen=True)
class Chosen:
    """Every maximum is at least the entry at `index`; where `sure` it is that one, else it is at most `top`.

    `index` counts through the positions of the input, channel by channel; all are `[N, *shape]`, and the input is
    `[N, *given]`.
    """

    index: Tensor
    sure: Tensor
    top: Tensor
    given: tuple[int, ...]

    def substitute(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows over the input: positive coefficients go to the entry chosen, negative ones where sure."""
        sure = self.sure.unsqueeze(1)
        passed = torch.where((rows >= 0) | sure, rows, torch.zeros_like(rows))
        constant = inner((rows - passed), self.top.masked_fill(self.sure, 0.0))
        size, count = rows.shape[:2], math.prod(self.given[1:])
        places = self.index.unsqueeze(1).expand_as(rows).flatten(3)
        back = rows.new_zeros(*size, self.given[0], count).scatter_add(3, places, passed.flatten(3))
        return back.view(*size, *self.given), constant

    def reach(self, size: Tensor) -> Tensor:
        """Return the magnitude of the entry chosen, or of the largest."""
        picked = size.flatten(2).gather(2, self.index.flatten(2)).view_as(self.top)
        return torch.maximum(picked, self.top.abs())


@dataclass(frozen=True)
class MaxPool:
    """`pool(x)` returns the maxima and their places; `apart`: no entry is in two windows."""

    pool: Callable[[Tensor], tuple[Tensor, Tensor]]
    apart: bool
    least_slope = None

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maxima of both ends."""
        return self.pool(lower)[0], self.pool(upper)[0]

    def undecided(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return where there is an interval at all."""
        return lower < upper

    def relax(
        self, lower: Tensor, upper: Tensor, *, slope: Slope | Tensor = "adaptive", unit: float = 0.0
    ) -> Chosen:
        """Return the entry with the largest lower end below, and above it too where no other can be larger."""
        floor, index = self.pool(lower)
        top = self.pool(upper)[0]
        others = top
        if self.apart:
            rest = upper.flatten(2).scatter(2, index.flatten(2), -torch.inf).view_as(upper)
            others = self.pool(rest)[0]
        return Chosen(index, floor >= others, top, tuple(lower.shape[1:]))


def max_pool(node: Node) -> MaxPool | None:
    """Return a max pool, or an adaptive one whose windows are all alike; None for any other."""
    how: dict[str, Any] = dict(node.attributes)
    given = node.inputs[0].shape[2:]
    if node.op == "adaptive_max_pool":
        made = node.shape[2:]
        if any(a % b for a, b in zip(given, made, strict=True)):
            return None
        kernel = tuple(a // b for a, b in zip(given, made, strict=True))
        none = (0,) * len(kernel)
        how = {"kernel": kernel, "stride": kernel, "padding": none, "dilation": (1,) * len(kernel), "ceil": False}
    window = {"kernel_size": how["kernel"], "ceil_mode": how["ceil"]}
    window |= {key: how[key] for key in ("stride", "padding", "dilation")}
    pool = partial(getattr(F, f"max_pool{len(given)}d"), return_indices=True, **window)
    spans = zip(how["kernel"], how["stride"], how["dilation"], strict=True)
    return MaxPool(pool, all(stride >= d * (k - 1) + 1 for k, stride, d in spans))
