"""Bounds of a network's outputs, and of the margins between its classes: the public side of the room."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hedgerow.attacks import check_images
from hedgerow.bounds.crown import Method, check_method, least_output
from hedgerow.bounds.memory import EVERYTHING, fit
from hedgerow.bounds.network import Network, check_weights
from hedgerow.bounds.regions import Region, ball, box
from hedgerow.bounds.rounding import Rounding, whole_products
from hedgerow.errors import DataError, ModelError
from hedgerow.threat import ThreatModel
from hedgerow.tracing import Graph

MEMORY = 2**30


def margin_bounds(
    graph: Graph,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    method: Method = "crown-ibp",
    *,
    dtype: torch.dtype | None = None,
    memory: int = MEMORY,
    steps: int = 20,
) -> Tensor:
    """Return lower bounds `[N, C]` of `logit_y - logit_j` over all images that the attacker may make of `x`.

    `x` is `[N, ...]` in [0,1], `y` `[N]` int64; column y is 0, and an image is verified when all others are above
    0 (`verified`). `graph` is a trace of `model`, whose weights are taken as they are now, in eval mode. Computed
    in `dtype`, the model's own when None. The bounds hold in spite of the rounding of their own computation; the
    network itself is understood as real arithmetic on its weights. A bound that overflows is -inf. `memory` in
    bytes is what may be taken beside weights and results: examples and classes are split until they fit. `steps`
    are those of alpha-CROWN.

    With gradients enabled they flow to the weights, except from alpha-CROWN; then nothing is added for rounding,
    and nothing is split. Raises `ModelError` for what has no bounds (a stochastic model, an unsupported operation,
    NaN weights), `DataError` for images out of range, `CertificationError` for an unknown method and no memory.
    """
    network = ready_network(graph, model, x, method, dtype)
    check_images(x, y, num_classes=_classes(network))
    region = ball(x, threat, outward=not torch.is_grad_enabled()).to(network.like.dtype)
    unit = torch.eye(_classes(network), dtype=network.like.dtype, device=x.device)

    def rows(part: slice) -> Tensor:
        return unit[y[part]].unsqueeze(1) - unit

    found = _least(network, region, rows, len(unit), method=method, memory=memory, steps=steps)
    return found.scatter(1, y.unsqueeze(1), 0.0)


def output_bounds(
    graph: Graph,
    model: nn.Module,
    lower: Tensor,
    upper: Tensor,
    method: Method = "crown-ibp",
    *,
    dtype: torch.dtype | None = None,
    memory: int = MEMORY,
    steps: int = 20,
) -> tuple[Tensor, Tensor]:
    """Return lower and upper bounds `[N, ...]` of the output for all inputs between `lower` and `upper`.

    The box need not lie in [0,1]; its ends are taken as they are. Otherwise as `margin_bounds`.
    """
    network = ready_network(graph, model, lower, method, dtype)
    region = box(lower, upper).to(network.like.dtype)
    shape = network.output.shape[1:]
    count = torch.Size(shape).numel()
    unit = torch.eye(count, dtype=network.like.dtype, device=lower.device).view(count, *shape)
    both = torch.cat([unit, -unit])

    def rows(part: slice) -> Tensor:
        return both.expand(part.stop - part.start, *both.shape)

    found = _least(network, region, rows, 2 * count, method=method, memory=memory, steps=steps)
    low, high = found.chunk(2, 1)
    return low.view(-1, *shape), -high.view(-1, *shape)


def verified(margins: Tensor, y: Tensor) -> Tensor:
    """Return `[N]` booleans: whether every margin `[N, C]` but that of class `y` itself is above 0."""
    others = torch.ones_like(margins, dtype=torch.bool).scatter(1, y.unsqueeze(1), False)
    return ((margins > 0) | ~others).all(1)


def ready_network(graph: Graph, model: nn.Module, x: Tensor, method: str, dtype: torch.dtype | None) -> Network:
    """Return the network for bounds of images like `x`; raises what `margin_bounds` does of network and format."""
    check_method(method)
    check_weights(graph, model)
    with torch.set_grad_enabled(torch.is_grad_enabled() and method != "alpha-crown"):
        network = Network(graph, model, dtype=dtype)
    if tuple(x.shape[1:]) != network.input.shape[1:]:
        raise DataError(
            f"images are {list(x.shape[1:])}; the network was traced with {list(network.input.shape[1:])}"
        )
    if torch.promote_types(x.dtype, network.like.dtype) != network.like.dtype:
        raise DataError(
            f"images are {x.dtype}, which {network.like.dtype} cannot hold; convert them, or give dtype={x.dtype}"
        )
    return network


def _classes(network: Network) -> int:
    if len(network.output.shape) != 2:
        raise ModelError(f"margins need logits [N, classes]; this network returns [N, {network.output.shape[1:]}]")
    return network.output.shape[1]


def _least(
    network: Network,
    region: Region,
    rows: Callable[[slice], Tensor],
    count: int,
    *,
    method: Method,
    memory: int,
    steps: int,
) -> Tensor:
    """Return the bounds of `count` functions of each example, worked on in parts; `rows(part)` makes them."""
    training = torch.is_grad_enabled() and method != "alpha-crown"
    plan = fit(
        network,
        memory,
        count=count,
        ball=not region.is_box,
        linear=method != "ibp",
        optimise=method == "alpha-crown",
    )
    plan = EVERYTHING if training else plan
    rounding = Rounding() if training else Rounding.of(network.like.dtype)
    parts = []
    with torch.set_grad_enabled(training), whole_products(region.lower.device):
        for part in plan.parts(len(region)):
            bounds = least_output(
                network, region[part], rows(part), method=method, rounding=rounding, fit=plan, steps=steps
            )
            parts.append(bounds.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf))
    return torch.cat(parts) if parts else region.lower.new_zeros(0, count)
