"""The robust training step as the papers' pseudocode has it: what `training.py` compares the product with.

Nothing here is slowed down on purpose. It is the plain reading: float32, contiguous memory, the mask found anew by
sorting all scores of a layer in every forward, TRADES with the clean logits recomputed at every attack step
(24 forwards), and `loss.backward()` to all parameters where only the gradient of the pixels is wanted.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS, STEP, STEPS = 8 / 255, 2 / 255, 10


class SortedMask(torch.autograd.Function):
    """The `keep` largest |scores| of a layer as 0 and 1, by a full sort; the gradient passes straight through."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, keep: int) -> Tensor:
        """Sort, and mark the last `keep`."""
        mask = torch.zeros_like(scores)
        _, order = scores.abs().flatten().sort(stable=True)
        mask.view(-1)[order[scores.numel() - keep :]] = 1.0
        ctx.save_for_backward(scores)
        return mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Pass the gradient on, with the sign of |s|."""
        (scores,) = ctx.saved_tensors
        return gradients[0] * scores.sign(), None


class ScoredConv(nn.Conv2d):
    """A convolution whose weights stand still under the mask of learned scores."""

    def forward(self, x: Tensor) -> Tensor:
        """Find the mask, apply it, convolve."""
        weight = self.weight * SortedMask.apply(self.scores, self.keep)  # type: ignore[no-untyped-call]
        return self._conv_forward(x, weight, self.bias)


class ScoredLinear(nn.Linear):
    """The same for a fully connected layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Find the mask, apply it, multiply."""
        weight = self.weight * SortedMask.apply(self.scores, self.keep)  # type: ignore[no-untyped-call]
        return F.linear(x, weight, self.bias)


class MaskedConv(nn.Conv2d):
    """A convolution under a fixed mask."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the mask, convolve."""
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class MaskedLinear(nn.Linear):
    """The same for a fully connected layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the mask, multiply."""
        return F.linear(x, self.weight * self.mask, self.bias)


def scored_copy(model: nn.Module, keep: list[int]) -> nn.Module:
    """Return a copy whose layers learn scores, `keep` of each, from the weights themselves (2002.10509, eq. 2)."""
    network = copy.deepcopy(model)
    for layer, count in zip(_layers(network), keep, strict=True):
        layer.__class__ = ScoredConv if isinstance(layer, nn.Conv2d) else ScoredLinear
        scale = math.sqrt(6.0 / layer.weight[0].numel()) / layer.weight.abs().max()
        layer.scores = nn.Parameter(layer.weight.detach() * scale)
        layer.keep = count
        layer.weight.requires_grad_(False)
        if layer.bias is not None:
            layer.bias.requires_grad_(False)
    return network


def masked_copy(model: nn.Module, keep: list[int]) -> nn.Module:
    """Return a copy whose layers have `keep` of their largest weights."""
    network = copy.deepcopy(model)
    for layer, count in zip(_layers(network), keep, strict=True):
        layer.__class__ = MaskedConv if isinstance(layer, nn.Conv2d) else MaskedLinear
        layer.register_buffer("mask", SortedMask.apply(layer.weight.detach(), count))  # type: ignore[no-untyped-call]
    return network


def _layers(network: nn.Module) -> list[Any]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def trades(model: nn.Module, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
    """Return the TRADES loss of a batch: 2 forwards for each of 10 attack steps, 3 for the loss, 1 to log."""
    model.eval()
    x_adv = (x + 0.001 * noise).clamp(0, 1)
    for _ in range(STEPS):
        x_adv = x_adv.detach().requires_grad_()
        kl = F.kl_div(F.log_softmax(model(x_adv), 1), F.softmax(model(x), 1), reduction="sum")
        kl.backward()
        x_adv = _moved(x_adv, x)
    model.train()
    model.zero_grad()
    natural = F.cross_entropy(model(x), y)
    robust = F.kl_div(F.log_softmax(model(x_adv), 1), F.softmax(model(x), 1), reduction="batchmean")
    with torch.no_grad():
        (model(x).argmax(1) == y).float().mean().item()  # the training accuracy of the log
    return natural + 6.0 * robust


def adversarial_training(model: nn.Module, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
    """Return the cross-entropy at PGD-10 images from the start `x + eps * noise`, noise in [-1, 1]."""
    model.eval()
    x_adv = (x + EPS * noise).clamp(0, 1)
    for _ in range(STEPS):
        x_adv = x_adv.detach().requires_grad_()
        F.cross_entropy(model(x_adv), y, reduction="sum").backward()
        x_adv = _moved(x_adv, x)
    model.train()
    model.zero_grad()
    return F.cross_entropy(model(x_adv), y)


def _moved(x_adv: Tensor, x: Tensor) -> Tensor:
    gradient = x_adv.grad
    if gradient is None:
        raise RuntimeError("no gradient reached the pixels")
    moved = x_adv.detach() + STEP * gradient.sign()
    return torch.min(torch.max(moved, x - EPS), x + EPS).clamp(0, 1)
