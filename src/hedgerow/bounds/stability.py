"""How far ReLUs are from deciding: the stability loss of channels (NRSLoss: Li et al., 2206.07311)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hedgerow.attacks import check_images
from hedgerow.bounds.crown import interval_walk
from hedgerow.bounds.network import Network, check_weights
from hedgerow.bounds.regions import ball
from hedgerow.errors import ModelError
from hedgerow.threat import ThreatModel
from hedgerow.tracing import Graph, Node

_FEEDERS = ("conv", "linear")


def nrs_loss(lower: Tensor, upper: Tensor, gamma: Tensor) -> Tensor:
    """Return -tanh(1 + l u / gamma^2) of every channel, `[C]`, meaned over examples and positions (2206.07311).

    `lower` and `upper` are bounds `[N, C, ...]` of what enters a ReLU, `gamma` `[C]` the scale of the batch norm
    before it, which makes l u comparable between channels; no gradient goes to it. Near -1 where no ReLU is in
    doubt, up to 1 where all are by far. (The paper's body is not public in full; this is the form of its code.)
    """
    wide = gamma.detach().square().view(1, -1, *[1] * (lower.dim() - 2))
    axes = [axis for axis in range(lower.dim()) if axis != 1]
    return -torch.tanh(1 + lower * upper / (wide + 1e-8)).mean(axes)


def channel_instability(graph: Graph, model: nn.Module, x: Tensor, threat: ThreatModel) -> dict[str, Tensor]:
    """Return the stability loss, `[C]`, of the channels that each convolution or linear layer makes for a ReLU.

    By the name of the layer's weight, whose filters (axis 0) the channels are; layers whose outputs go to no ReLU
    directly or through one batch norm are left out. Interval bounds of the images `x`, `[N, ...]`, in eval mode,
    as the public code takes them; without a batch norm gamma is 1. A structured pruner in the sense of the paper
    removes the filters of largest loss:

        keep = topk_mask(-loss, kept)            # [C], for every weight
        masks[name] = keep.view(-1, 1, 1, 1).expand_as(weight)

    Raises what `margin_bounds` raises, and `ModelError` when no ReLU has such a layer.
    """
    check_weights(graph, model)
    check_images(x)
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        network = Network(graph, model)
        walk = interval_walk(network, ball(x, threat).to(network.like.dtype))
        for node, ends in walk.ends.items():
            name, gamma = _feeder(network, node)
            if name is not None and node.op == "relu":
                scale = ends.centre.new_ones(ends.centre.shape[1]) if gamma is None else graph.value(model, gamma)
                found[name] = nrs_loss(ends.lower, ends.upper, scale)
    if not found:
        raise ModelError(f"{type(model).__name__} has no ReLU after a convolution or linear layer to judge")
    return found


def _feeder(network: Network, node: Node) -> tuple[str | None, str | None]:
    """Return the names of the weight that feeds an activation and of the batch norm's scale between them."""
    (before,) = network.parents(node)
    gamma = None
    if before.op == "batch_norm":
        gamma = before.weights.get("weight")
        (before,) = network.parents(before)
    fits = before.op in _FEEDERS and len(before.shape) > 1 and (before.op == "conv" or len(before.shape) == 2)
    return (before.weights["weight"] if fits else None), gamma
