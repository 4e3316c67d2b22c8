"""Adversarial weight perturbation, an option of adversarial objectives (Wu et al., 2004.05884, section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hedgerow.attacks import bare
from hedgerow.attacks.crafting import unchanged_buffers
from hedgerow.objectives.base import Scalars
from hedgerow.sparsity import prunable_weights, replaced_weights, shared_weights

Terms = Callable[[nn.Module], tuple[Tensor, Scalars]]


def weight_perturbation(weight: Tensor, gradient: Tensor, gamma: float) -> Tensor:
    """Return v = gamma * ||w|| * g / ||g|| of one layer, both norms over the whole layer (2004.05884, section 4).

    `gradient` is the loss gradient at the weight, of its shape. Entries at which the weight is exactly 0 have no
    part in g: v is 0 there. v is 0 everywhere when g is.
    """
    live = torch.where(weight != 0, gradient, torch.zeros((), dtype=gradient.dtype, device=gradient.device))
    norm = torch.linalg.vector_norm(live)
    return live * torch.where(norm > 0, gamma * torch.linalg.vector_norm(weight) / norm, torch.zeros_like(norm))


def at_worst_weights(model: nn.Module, terms: Terms, gamma: float) -> tuple[Tensor, Scalars]:
    """Return `terms(model)`, a loss of `model` and its scalars, at adversarially perturbed weights.

    v is one ascent of that loss, layer by layer, for the weight of every convolution and linear layer as the
    layer uses it: what a mask removed stays exactly 0. The gradient of the loss is that at w + v and goes to the
    stored weights, or to learned scores, as it would without v; they themselves are not changed. Batch norm: the
    ascent sees the statistics of the batch in training mode and leaves the running ones as they were; the loss at
    w + v updates them. gamma = 0 is `terms(model)` alone. Call outside of `crafting`, on inputs already made.
    """
    if not gamma:
        return terms(model)
    inner = bare(model)
    with shared_weights(inner):
        weights = {n: getattr(w.module, w.attribute) for n, w in prunable_weights(inner).items()}
        steps = _ascents(inner, terms, weights, gamma)
        with replaced_weights(inner, {name: weight + steps[name] for name, weight in weights.items()}):
            return terms(model)


@torch.enable_grad()
def _ascents(model: nn.Module, terms: Terms, weights: dict[str, Tensor], gamma: float) -> dict[str, Tensor]:
    # Leaves of their own: no graph to scores, no hook of a method that listens to gradients.
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    with unchanged_buffers(model), replaced_weights(model, leaves):
        gradients = torch.autograd.grad(terms(model)[0], list(leaves.values()), materialize_grads=True)
    pairs = zip(leaves.items(), gradients, strict=True)
    return {name: weight_perturbation(leaf.detach(), gradient, gamma) for (name, leaf), gradient in pairs}


def check_gamma(awp: float) -> None:
    """Raise `ValueError` unless the size of the perturbation, relative to the weight, is a number from 0 on."""
    if not 0 <= awp < math.inf:
        raise ValueError(
            f"awp is {awp}; it is the size of the weight perturbation relative to each layer's norm, 0 (none) or "
            "more, such as 0.005"
        )
