"""Linear bounds (CROWN, 1811.00866, section 3): rows of coefficients carried from a node back to the images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from hedgerow.bounds.curves import Relaxation
from hedgerow.bounds.forward import Walk
from hedgerow.bounds.inner import inner
from hedgerow.bounds.interval import Interval
from hedgerow.bounds.regions import Region
from hedgerow.tracing import Node

Relax = Callable[[Node], Relaxation]


def least(
    found: Walk,
    start: Node,
    rows: Tensor,
    *,
    stops: Mapping[Node, Interval | Region],
    relax: Relax | None = None,
) -> Tensor:
    """Return lower bounds `[N, S]` of the linear functions `rows`, `[N, S, *shape]`, of the value of `start`.

    The rows are carried back, through every affine node exactly and through every activation by `relax(node)`,
    until they meet a node of `stops`, over whose interval or region they are then minimised.
    """
    total = _Total(found, rows.new_zeros(rows.shape[:2]))
    pending = {start: rows}
    for node in found.network.back_from(start):
        here = pending.pop(node, None)
        if here is None:
            continue
        if node in stops:
            total.end(here, stops[node])
            continue
        for parent, more in _back(found, node, here, total, relax):
            if parent in pending:
                more = pending[parent] + more  # noqa: PLW2901
                total.slack(more, parent, 2)
            pending[parent] = more
    return total.value()


def _back(found: Walk, node: Node, rows: Tensor, total: _Total, relax: Relax | None) -> list[tuple[Node, Tensor]]:
    network = found.network
    parents = network.parents(node)
    if node in network.affine:
        layer = network.affine[node]
        if layer.offset is not None:
            total.add(inner(rows, layer.offset))
        total.slack(rows, node, layer.terms)
        back = layer.adjoint(rows.flatten(0, 1))
        return [(p, each.reshape(*rows.shape[:2], *each.shape[1:])) for p, each in zip(parents, back, strict=True)]
    if relax is None:
        raise TypeError(f"rows met {node.where} with no lines for it")
    lines = relax(node)
    back_rows, constant = lines.substitute(rows)
    if constant is not None:
        total.add(constant)
    total.relaxed(rows, lines, found.ends[node])
    return [(parents[0], back_rows)]


class _Total:
    """The constants so far, and what rounding may have added to them."""

    def __init__(self, found: Walk, zero: Tensor) -> None:
        self.found, self.constant, self.error = found, zero, zero
        self.rounding = found.rounding

    def add(self, more: Tensor) -> None:
        self.constant = self.constant + more
        if self.rounding.unit:
            self.error = self.error + 2 * self.rounding.unit * self.constant.abs()

    def end(self, rows: Tensor, stop: Interval | Region) -> None:
        self.add(stop.least(rows))
        if self.rounding.unit:
            size = stop.centre.abs() + stop.radius if isinstance(stop, Interval) else stop.reach()
            self._charge(rows, size, 8)

    def slack(self, rows: Tensor, node: Node, terms: int) -> None:
        if self.rounding.unit:
            self._charge(rows, self.found.reach[node], terms)

    def relaxed(self, rows: Tensor, lines: Relaxation, before: Interval) -> None:
        if self.rounding.unit:
            self._charge(rows, lines.reach(before.centre.abs() + before.radius), 4)

    def _charge(self, rows: Tensor, size: Tensor, terms: int) -> None:
        # The constant that goes with the rows is itself a sum over the whole node.
        # Twice the count: the product below is rounded too.
        count = max(terms, rows[0, 0].numel()) + 8
        self.error = self.error + self.rounding.gamma(2 * count) * inner(rows.abs(), size)

    def value(self) -> Tensor:
        if not self.rounding.unit:
            return self.constant
        return self.constant - 1.01 * self.error - 4 * self.rounding.unit * self.constant.abs()
