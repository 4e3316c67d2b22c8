"""How far ReLUs are from deciding: the normalised ReLU stability loss (NRSLoss: Li et al., 2206.07311).

For a ReLU whose input lies in [l, u], behind a batch norm of scale gamma: -tanh(1 + l u / gamma^2) (eq. 5). It is
near -1 where the sign is settled and up to 1 where it is open. l u / gamma^2 is the product of the bounds in front
of the scale; without a batch norm gamma is 1, and it is the RS loss -tanh(1 + l u) (1809.03008; eq. 4). Equations
are numbered as in the version of the paper in two columns.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hedgerow.attacks import check_images
from hedgerow.bounds.crown import interval_walk
from hedgerow.bounds.curves import Bent
from hedgerow.bounds.forward import Walk
from hedgerow.bounds.interval import Interval
from hedgerow.bounds.margins import MEMORY, ready_network
from hedgerow.bounds.memory import fit
from hedgerow.bounds.network import Network
from hedgerow.bounds.regions import ball
from hedgerow.bounds.rounding import whole_products
from hedgerow.errors import DataError, ModelError
from hedgerow.threat import ThreatModel
from hedgerow.tracing import Graph, Node

_FEEDERS = ("conv", "linear")


def nrs_loss(lower: Tensor, upper: Tensor, gamma: Tensor) -> Tensor:
    """Return -tanh(1 + l u / gamma^2) of every channel, `[C]`, meaned over examples and positions (eq. 5).

    `lower` and `upper` are bounds `[N, C, ...]` of what enters a ReLU, `gamma` `[C]` the scale of the batch norm
    before it, which makes l u comparable between channels; no gradient goes to it. As in the authors' code 1e-8 is
    added to gamma^2.
    """
    return _by_channel(_by_neuron(lower, upper, gamma))


def stability_loss(found: Walk) -> Tensor:
    """Return the mean stability loss of all channels in front of ReLUs, a scalar with gradients to the weights.

    `found` are interval bounds as training has them. All activations that bend at 0 count (ReLU, leaky ReLU,
    absolute value), and every channel as much as any other, as in the authors' code for CROWN-IBP. No gradient
    reaches the gamma right before a ReLU, as the paper has it: its share in l and u is taken off too. (In the
    authors' code it is off in the divisor alone, and remains through l and u.) Raises `ModelError` when nothing
    bends at 0.
    """
    losses = []
    for node, ends in _at_relus(found):
        gamma, beta = _scale(found.network, node)
        if gamma is None:
            losses.append(_by_channel(_by_neuron(ends.lower, ends.upper, None)))
        else:
            lower, upper = (_past_scale(end, gamma, beta) for end in (ends.lower, ends.upper))
            losses.append(nrs_loss(lower, upper, gamma))
    if not losses:
        raise ModelError("the network has no ReLU whose stability could be trained for; set stability 0")
    return torch.cat([each.flatten() for each in losses]).mean()


def neuron_instability(
    graph: Graph,
    model: nn.Module,
    x: Tensor,
    threat: ThreatModel,
    *,
    dtype: torch.dtype | None = None,
    memory: int = MEMORY,
) -> dict[Node, Tensor]:
    """Return the stability loss of every neuron, meaned over the images `x`, by the ReLU that it enters.

    Of the ReLU's shape without the batch axis. By interval bounds of `x`, `[N, ...]` in [0,1], in eval mode,
    computed in `dtype` (the model's own when None) and in parts that fit into `memory` bytes. Raises what
    `margin_bounds` raises, and `ModelError` when there is no ReLU.
    """
    check_images(x)
    if not len(x):
        raise DataError("stability is judged on images, and there are none; give one or more")
    sums: dict[Node, Tensor] = {}
    with torch.no_grad(), whole_products(x.device):
        network = ready_network(graph, model, x, "ibp", dtype)
        region = ball(x, threat).to(network.like.dtype)
        plan = fit(network, memory, count=1, ball=not region.is_box, linear=False, optimise=False)
        for part in plan.parts(len(region)):
            for node, ends in _at_relus(interval_walk(network, region[part])):
                total = _by_neuron(ends.lower, ends.upper, _scale(network, node)[0]).sum(0)
                sums[node] = sums[node] + total if node in sums else total
    if not sums:
        raise ModelError(f"{type(model).__name__} has no ReLU whose stability could be judged")
    return {node: total / len(x) for node, total in sums.items()}


def channel_instability(graph: Graph, model: nn.Module, x: Tensor, threat: ThreatModel) -> dict[str, Tensor]:
    """Return the stability loss, `[C]`, of the channels that each convolution or linear layer makes for a ReLU.

    By the name of the layer's weight, whose filters (axis 0) the channels are; layers whose outputs go to no ReLU
    directly or through one batch norm are left out. Otherwise as `neuron_instability`, which also raises
    `ModelError` when no ReLU has such a layer.
    """
    found: dict[str, Tensor] = {}
    for node, losses in neuron_instability(graph, model, x, threat).items():
        before = _behind_norm(node)
        if before.op in _FEEDERS and (before.op == "conv" or len(before.shape) == 2):
            found[before.weights["weight"]] = losses.flatten(1).mean(1) if losses.dim() > 1 else losses
    if not found:
        raise ModelError(f"{type(model).__name__} has no ReLU after a convolution or linear layer to judge")
    return found


def _at_relus(found: Walk) -> Iterator[tuple[Node, Interval]]:
    """Yield the activations that bend at 0, with the intervals of what enters them."""
    for node, ends in found.ends.items():
        if isinstance(found.network.curves[node], Bent):
            yield node, ends


def _behind_norm(node: Node) -> Node:
    """Return what an activation takes, in front of the batch norm if one is between them."""
    (before,) = node.inputs
    return before.inputs[0] if before.op == "batch_norm" else before


def _scale(network: Network, node: Node) -> tuple[Tensor | None, Tensor | None]:
    """Return scale and shift, `[C]`, of the batch norm right before an activation; None where there is none."""
    (before,) = node.inputs
    weights = network.weights(before) if before.op == "batch_norm" else {}
    return weights.get("weight"), weights.get("bias")


def _past_scale(end: Tensor, gamma: Tensor, beta: Tensor | None) -> Tensor:
    """Return `end` = gamma e + beta, `[N, C, ...]`, as it is, with no gradient to gamma: e is taken off again."""
    wide = (1, -1, *[1] * (end.dim() - 2))
    safe = torch.where(gamma == 0, torch.ones_like(gamma), gamma)
    nothing = (safe.detach() / safe - 1).view(wide)  # 0, with the gradient -1 / gamma
    own = end if beta is None else end - beta.view(wide)
    return end + own.detach() * nothing


def _by_neuron(lower: Tensor, upper: Tensor, gamma: Tensor | None) -> Tensor:
    product = lower * upper
    if gamma is not None:
        product = product / (gamma.detach().square() + 1e-8).view(1, -1, *[1] * (lower.dim() - 2))
    return -torch.tanh(1 + product)


def _by_channel(losses: Tensor) -> Tensor:
    return losses.mean([axis for axis in range(losses.dim()) if axis != 1])
