"""Bounds that hold in spite of rounding: what a computer's arithmetic may be off by is added on the outside."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rounding:
    """How much to add for rounding; `unit` bounds the relative error of one operation, and 0 adds nothing.

    A sum of n products, added up in any order, is off by at most gamma(n) times the sum of their magnitudes
    (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1). Kernels that do not form these
    products, such as Winograd's, are not covered.
    """

    unit: float = 0.0

    @classmethod
    def of(cls, dtype: torch.dtype) -> Rounding:
        """Return the rounding of a number format."""
        return cls(torch.finfo(dtype).eps / 2)

    def gamma(self, terms: int) -> float:
        """Return the largest relative error of a sum of `terms` products."""
        share = terms * self.unit
        return share / (1 - share) if share < 1 else math.inf

    def widen(self, radius: Tensor, centre: Tensor, terms: int) -> Tensor:
        """Return a radius that also covers a relative error of gamma(terms) in centre and radius."""
        if not self.unit:
            return radius
        return radius + self.gamma(terms) * (centre.abs() + radius)


@contextmanager
def whole_products(device: torch.device) -> Iterator[None]:
    """Multiply with all digits inside: no autocast, no TF32, no bfloat16 in the place of float32."""
    precision, tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = tf32
