"""Two operations on rows of coefficients: `rows` is `[N, S, *shape]`, S linear functions of each of N examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def inner(rows: Tensor, values: Tensor) -> Tensor:
    """Return the `[N, S]` products of `rows`, `[N, S, *shape]`, with `values`.

    `values` is `[N or 1, *shape]`, or broadcasts to that; nothing of the size of `rows` is made.
    """
    once = [dim for dim in range(2, rows.dim()) if values.shape[dim - 1] == 1 and rows.shape[dim] != 1]
    flat = (rows.sum(once) if once else rows).flatten(2)
    values = values.flatten(1)
    if len(values) == 1:
        return flat @ values[0]
    return torch.bmm(flat, values.unsqueeze(2)).squeeze(2)


def transposed(
    function: Callable[..., Tensor], shapes: Sequence[Sequence[int]], rows: Tensor
) -> tuple[Tensor, ...]:
    """Return A^T rows for each argument of a function that is linear in all of them jointly.

    `rows` is `[R, *out]`, `shapes` are those of the arguments without their batch axis; differentiable in `rows`
    and in whatever the function is made of.
    """
    further = torch.is_grad_enabled()
    with torch.enable_grad():
        points = [rows.new_zeros((len(rows), *shape), requires_grad=True) for shape in shapes]
        image = function(*points)
    return torch.autograd.grad(image, points, rows, create_graph=further)
