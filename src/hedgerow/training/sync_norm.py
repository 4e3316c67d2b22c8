"""Batch norm over the batch of the whole team: several processes normalise as one alone would."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hedgerow.team import Team


@contextmanager
def synced_norms(model: nn.Module, members: Team) -> Iterator[None]:
    """Let every batch norm of `model` that trains inside take mean and variance over the images of all processes.

    The library's own layer for this (`torch.nn.SyncBatchNorm`) runs on GPUs only. One process alone changes
    nothing. Layers without running statistics are left as they are.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    norms = [m for m in norms if members.world > 1 and type(m).forward is _BatchNorm.forward]
    try:
        for norm in norms:
            vars(norm)["forward"] = functools.partial(_forward, norm)
        yield
    finally:
        for norm in norms:
            vars(norm).pop("forward", None)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over the team; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        """Add up; one collective."""
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Add up what every process makes of the sum; one collective."""
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total


def _summed(value: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]
    return total


def _forward(norm: _BatchNorm, x: Tensor) -> Tensor:
    if not norm.training:
        return _BatchNorm.forward(norm, x)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    axes = [axis for axis in range(x.dim()) if axis != 1]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    own = wide.sum(axes)
    sums = _summed(torch.cat([own, own.new_full((1,), wide.numel() / own.numel())]))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = wide - mean.view(shape)
    variance = _summed(centred.square().sum(axes)) / count
    _update(norm, mean.detach(), variance.detach() * count / (count - 1).clamp_min(1))
    out = centred * torch.rsqrt(variance + norm.eps).view(shape)
    if norm.weight is not None:
        out = out * norm.weight.view(shape)
    if norm.bias is not None:
        out = out + norm.bias.view(shape)
    return out.to(x.dtype)


@torch.no_grad()
def _update(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    if norm.running_mean is None or norm.running_var is None:
        return
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    share = norm.momentum
    if share is None:  # the plain average of all batches
        share = 1.0 / float(norm.num_batches_tracked) if norm.num_batches_tracked is not None else 0.0
    norm.running_mean.lerp_(mean.to(norm.running_mean), share)
    norm.running_var.lerp_(variance.to(norm.running_var), share)
