"""Interval bounds (IBP, 1810.12715): one walk from the images to the output, in centre and radius."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hedgerow.bounds.affine import Affine
from hedgerow.bounds.curves import Relaxation, Slope
from hedgerow.bounds.interval import Interval
from hedgerow.bounds.network import Network
from hedgerow.bounds.regions import Region
from hedgerow.bounds.rounding import Rounding
from hedgerow.tracing import Node

Refine = Callable[["Walk", Node, Interval], Interval]
"""`(walk so far, activation, interval of its input) -> the same or a tighter interval`."""


@dataclass
class Walk:
    """What is known of the nodes so far.

    `kept` are intervals of nodes that were asked for; `ends` those of every activation's input;
    `reach`, where rounding counts, bounds the magnitudes of all that a node's value is added up from.
    """

    network: Network
    region: Region
    rounding: Rounding
    kept: dict[Node, Interval] = field(default_factory=dict)
    ends: dict[Node, Interval] = field(default_factory=dict)
    reach: dict[Node, Tensor] = field(default_factory=dict)

    def relax(self, node: Node, slope: Slope | Tensor = "adaptive") -> Relaxation:
        """Return an activation between linear functions, on the interval of its input."""
        ends = self.ends[node]
        return self.network.curves[node].relax(ends.lower, ends.upper, slope=slope, unit=self.rounding.unit)


def walk(
    network: Network,
    region: Region,
    *,
    keep: Collection[Node] = (),
    rounding: Rounding | None = None,
    reaching: Collection[Node] = (),
    refine: Refine | None = None,
) -> Walk:
    """Return the interval bounds of a network over a region of images, `[N, ...]` in the network's format.

    Intervals are dropped as soon as nothing needs them, but for the nodes in `keep`. The rounding of a later way
    back is prepared for at the nodes in `reaching`. `refine` may tighten the input of every activation.
    """
    found = Walk(network, region, rounding or Rounding())
    steps = _Steps(found, frozenset(reaching) if found.rounding.unit else frozenset())
    left = {node: len(users) for node, users in network.graph.users().items()}
    for node in network.order:
        if node in network.curves:
            steps.curve(node, refine)
        else:
            steps.straight(node)
        if node in keep:
            found.kept[node] = steps.intervals[node]
        for parent in network.parents(node):
            left[parent] -= 1
            if not left[parent]:
                steps.drop(parent)
    return found


class _Steps:
    def __init__(self, found: Walk, reaching: frozenset[Node]) -> None:
        self.found, self.reaching = found, reaching
        self.network, self.rounding = found.network, found.rounding
        self.intervals: dict[Node, Interval] = {}
        # In l2, while no entry mixes several pixels: what becomes of the ball's centre, and the squared factors.
        self.heads: dict[Node, tuple[Interval, Tensor]] = {}

    def drop(self, node: Node) -> None:
        self.intervals.pop(node, None)
        self.heads.pop(node, None)

    def straight(self, node: Node) -> None:
        if node is self.network.input:
            self._start(node)
            return
        layer, parents = self.network.affine[node], self.network.parents(node)
        before = [self.intervals[parent] for parent in parents]
        interval = self._carried(layer, before)
        if len(parents) == 1 and parents[0] in self.heads:
            interval = self._within_ball(node, parents[0], interval)
        self.intervals[node] = interval
        if node in self.reaching:
            size = layer.magnitude(*(each.centre.abs() + each.radius for each in before))
            bulk = layer.offset.abs() if layer.bulk is None and layer.offset is not None else layer.bulk
            self.found.reach[node] = size if bulk is None else size + bulk

    def _carried(self, layer: Affine, before: list[Interval]) -> Interval:
        centre = layer.value(*(each.centre for each in before))
        terms = 2 * layer.terms + 8
        widened = [self.rounding.widen(each.radius, each.centre, terms) for each in before]
        radius = self.rounding.widen(layer.magnitude(*widened), centre, terms)
        if self.rounding.unit and layer.bulk is not None:
            radius = radius + self.rounding.gamma(terms) * layer.bulk
        return Interval(centre, radius)

    def _start(self, node: Node) -> None:
        region = self.found.region
        start = region.interval()
        self.intervals[node] = Interval(start.centre, self.rounding.widen(start.radius, start.centre, 4))
        if not region.is_box and region.centre is not None:
            exact = Interval(region.centre, torch.zeros_like(region.centre))
            self.heads[node] = (exact, torch.ones_like(region.centre))
        if node in self.reaching:
            self.found.reach[node] = region.reach()

    def _within_ball(self, node: Node, parent: Node, interval: Interval) -> Interval:
        """Cut an interval with what the ball allows: its radius times the length of each row of A."""
        layer, (centre, squares) = self.network.affine[node], self.heads[parent]
        if layer.squares is None:
            return interval
        middle, square = self._carried(layer, [centre]), layer.squares(squares)
        if layer.diagonal:
            self.heads[node] = (middle, square)
        # Rows that are all 0, under a mask say, would have an infinite gradient.
        length = self.found.region.eps * square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()
        radius = middle.radius + self.rounding.widen(length, length, 2 * layer.terms + 8)
        lower = torch.maximum(interval.lower, middle.centre - radius)
        upper = torch.minimum(interval.upper, middle.centre + radius)
        both = Interval.between(lower, torch.maximum(lower, upper))
        return Interval(both.centre, self.rounding.widen(both.radius, both.centre, 8))

    def curve(self, node: Node, refine: Refine | None) -> None:
        (parent,) = self.network.parents(node)
        before, curve = self.intervals[parent], self.network.curves[node]
        if refine is not None:
            before = self.intervals[parent] = refine(self.found, node, before)
            if parent in self.found.kept:
                self.found.kept[parent] = before
        before = Interval(before.centre, self.rounding.widen(before.radius, before.centre, 4))
        self.found.ends[node] = before
        lower, upper = curve.interval(before.lower, before.upper)
        centre = torch.lerp(lower, upper, 0.5)
        radius = upper - centre if upper.requires_grad else upper.sub_(centre)
        radius = self.rounding.widen(radius, centre, 8)
        self.intervals[node] = Interval(centre, radius)
        if node in self.reaching:
            self.found.reach[node] = centre.abs() + radius
