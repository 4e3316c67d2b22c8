"""The methods: IBP, CROWN-IBP, CROWN, alpha-CROWN. Each is at least as tight as the one before it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from hedgerow.bounds.alpha import optimised
from hedgerow.bounds.backward import least
from hedgerow.bounds.curves import Slope
from hedgerow.bounds.forward import Walk, walk
from hedgerow.bounds.interval import Interval
from hedgerow.bounds.memory import EVERYTHING, Fit
from hedgerow.bounds.network import Network
from hedgerow.bounds.regions import Region
from hedgerow.bounds.rounding import Rounding
from hedgerow.errors import CertificationError
from hedgerow.tracing import Node

Method = Literal["ibp", "crown-ibp", "crown", "alpha-crown"]
METHODS: tuple[Method, ...] = get_args(Method)


def check_method(method: str) -> None:
    """Raise `CertificationError` for a method that is not known."""
    if method not in METHODS:
        raise CertificationError(f"method {method!r} is not known; allowed: {', '.join(METHODS)}")


def interval_walk(
    network: Network, region: Region, *, rounding: Rounding | None = None, linear: bool = False
) -> Walk:
    """Return a walk that keeps what `interval_least` needs; with `linear` also what `linear_least` needs."""
    first, last = affine_end(network, region)
    return walk(network, region, keep=first, reaching=network.order if linear else first | last, rounding=rounding)


def interval_least(found: Walk, rows: Tensor) -> Tensor:
    """Return IBP's lower bounds `[N, S]` of linear functions `rows`, `[N, S, *out]`, of the output.

    The rows are carried back through the affine end of the network first, so that what its outputs have in common
    counts: the specification folded into the last layer (1810.12715, section 3).
    """
    stops: dict[Node, Interval | Region] = {**found.kept}
    if found.network.input in stops:
        stops[found.network.input] = found.region
    return least(found, found.network.output, rows, stops=stops)


def linear_least(found: Walk, rows: Tensor, *, slope: Slope = "adaptive", start: Node | None = None) -> Tensor:
    """Return lower bounds `[N, S]` of the functions `rows` of `start` (the output), carried back to the images.

    The intervals of the activations' inputs are those of the walk: CROWN-IBP (1906.06316) when it is an interval
    walk, CROWN (1811.00866) when linear bounds have tightened it.
    """
    network = found.network
    stops = {network.input: found.region}
    return least(found, start or network.output, rows, stops=stops, relax=partial(found.relax, slope=slope))


def affine_end(network: Network, region: Region) -> tuple[frozenset[Node], frozenset[Node]]:
    """Return the nodes that the affine end of the network begins with, and all after them.

    It begins at an activation or the input, or where an interval is as good as those: between them nothing was
    added up that an interval does not know of.
    """
    first, after = set(), set()
    pending = [network.output]
    while pending:
        node = pending.pop()
        if node is network.input or (node in network.tame and (region.is_box or not _from_input(network, node))):
            first.add(node)
        elif node not in after:
            after.add(node)
            pending += network.parents(node)
    return frozenset(first), frozenset(after)


def _from_input(network: Network, node: Node) -> bool:
    while node not in network.curves:
        if node is network.input:
            return True
        node = network.parents(node)[0]
    return False


def crown_walk(
    network: Network,
    region: Region,
    *,
    rounding: Rounding | None = None,
    slope: Slope = "adaptive",
    fit: Fit = EVERYTHING,
) -> Walk:
    """Return a walk in which linear bounds tighten the input of every activation, layer by layer (CROWN).

    Only entries whose lines would get better are worked on: of a ReLU those whose sign is open.
    """

    def refine(found: Walk, node: Node, interval: Interval) -> Interval:
        (parent,) = network.parents(node)
        if region.is_box and parent in network.exact:
            return interval
        lower, upper = interval.lower, interval.upper
        open_entries = network.curves[node].undecided(lower, upper).flatten(1)
        most = int(open_entries.sum(1).max())
        if not most:
            return interval
        # The open entries of each example first; where it has fewer than others, some of the rest for company.
        places = open_entries.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        found_lower, found_upper = _ends(found, parent, places, slope, fit)
        tight_lower = torch.maximum(lower.flatten(1).gather(1, places), found_lower)
        tight_upper = torch.minimum(upper.flatten(1).gather(1, places), found_upper)
        # Two sound ends may cross by rounding alone; then both say where the value is.
        low, high = torch.minimum(tight_lower, tight_upper), torch.maximum(tight_lower, tight_upper)
        lower = lower.flatten(1).scatter(1, places, low).view_as(lower)
        upper = upper.flatten(1).scatter(1, places, high).view_as(upper)
        return Interval.between(lower, upper)

    first, _ = affine_end(network, region)
    return walk(network, region, keep=first, reaching=network.order, rounding=rounding, refine=refine)


def _ends(found: Walk, node: Node, places: Tensor, slope: Slope, fit: Fit) -> tuple[Tensor, Tensor]:
    """Return both ends, `[N, P]`, of the entries of `node` at `places`, `[N, P]` of its flattened value."""
    size = math.prod(node.shape[1:])
    lowers, uppers = [], []
    for part in fit.row_parts(2 * len(places), places.shape[1]):
        rows = torch.zeros(*places[:, part].shape, size, dtype=found.network.like.dtype, device=places.device)
        rows = rows.scatter(2, places[:, part].unsqueeze(2), 1.0)
        both = torch.cat([rows, -rows], 1)
        both = both.view(*both.shape[:2], *node.shape[1:])
        low, high = linear_least(found, both, slope=slope, start=node).chunk(2, 1)
        lowers.append(low)
        uppers.append(-high)
    return torch.cat(lowers, 1), torch.cat(uppers, 1)


def least_output(
    network: Network,
    region: Region,
    rows: Tensor,
    *,
    method: Method,
    rounding: Rounding | None = None,
    fit: Fit = EVERYTHING,
    steps: int = 20,
) -> Tensor:
    """Return lower bounds `[N, S]` of the functions `rows`, `[N, S, *out]`, of the output, by any method.

    CROWN-IBP, CROWN and alpha-CROWN also compute the methods before them, which cost little beside them, and
    return the best bound of each row.
    """
    check_method(method)
    found = interval_walk(network, region, rounding=rounding, linear=method != "ibp")

    def by_parts(bound: Callable[[Tensor], Tensor]) -> Tensor:
        parts = fit.row_parts(len(region), rows.shape[1])
        return torch.cat([bound(rows[:, part]) for part in parts], 1)

    best = by_parts(lambda part: interval_least(found, part))
    if method != "ibp":
        best = torch.maximum(best, by_parts(lambda part: linear_least(found, part)))
    if method in ("crown", "alpha-crown"):
        found = crown_walk(network, region, rounding=rounding, fit=fit)
        best = torch.maximum(best, by_parts(lambda part: interval_least(found, part)))
        best = torch.maximum(best, by_parts(lambda part: linear_least(found, part)))
    if method == "alpha-crown":
        best = torch.maximum(best, by_parts(lambda part: optimised(found, part, steps=steps)))
    return best
