"""alpha-CROWN: lower slopes chosen by gradient ascent on the bound itself (2011.13824, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from hedgerow.bounds.backward import least
from hedgerow.bounds.curves import Lines, Relaxation
from hedgerow.bounds.forward import Walk
from hedgerow.tracing import Node

_RATE, _DECAY = 0.25, 0.95


def optimised(found: Walk, rows: Tensor, *, steps: int) -> Tensor:
    """Return lower bounds `[N, S]` of the functions `rows`, `[N, S, *out]`, of the output; the best of all steps.

    Every row has lower slopes of its own at every activation that leaves a choice; they start as those of CROWN
    and take `steps` steps of Adam. The intervals of the activations' inputs stay those of the walk. Any slopes are
    sound, so the best bound of each row is. No gradient flows to the weights: make the network without it.
    """
    network = found.network
    stops = {network.input: found.region}
    with torch.no_grad():
        fixed = {node: found.relax(node) for node in network.curves}
    slopes = {
        node: lines.low.expand(*rows.shape[:2], *lines.low.shape[2:]).clone().requires_grad_()
        for node, lines in fixed.items()
        if network.curves[node].least_slope is not None and isinstance(lines, Lines)
    }

    def relax(node: Node) -> Relaxation:
        if node not in slopes:
            return fixed[node]
        return found.relax(node, slopes[node])

    if not slopes or steps < 1:
        return least(found, network.output, rows, stops=stops, relax=relax).detach()
    adam = torch.optim.Adam(slopes.values(), lr=_RATE)
    best = rows.new_full(rows.shape[:2], -torch.inf)
    for _ in range(steps):
        with torch.enable_grad():
            bound = least(found, network.output, rows, stops=stops, relax=relax)
            gradients = torch.autograd.grad(-bound.sum(), list(slopes.values()), materialize_grads=True)
        best = torch.maximum(best, bound.detach())
        for slope, gradient in zip(slopes.values(), gradients, strict=True):
            slope.grad = gradient
        adam.step()
        adam.param_groups[0]["lr"] *= _DECAY
        with torch.no_grad():
            for node, slope in slopes.items():
                slope.clamp_(network.curves[node].least_slope, 1.0)
    with torch.no_grad():
        return torch.maximum(best, least(found, network.output, rows, stops=stops, relax=relax))
