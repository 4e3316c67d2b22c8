"""What a network costs at given densities of its units: parameters, or FLOPs of any traced model (2412.14714)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from hedgerow.errors import ModelError
from hedgerow.sparsity import Units
from hedgerow.sparsity.shared import Shared

if TYPE_CHECKING:
    from hedgerow.tracing import Channels, Graph

Currency = Literal["parameters", "flops"]

Axes = tuple[Mapping[str, float], ...]
"""For each axis of a weight that units lie along: the share of its indices that each unit has, by its name."""


@dataclass(frozen=True)
class Cost:
    """What one layer costs when it is dense, and along which axes units take shares of it; the rest stays."""

    amount: float
    axes: Axes


class Resource:
    """R, the share of the dense network's cost that is left, as a function of the densities of its units.

    A layer costs its dense cost times what is left along its axes: in the channel form FLOPs(C_in * k_l,
    C_out * k_next) (2412.14714). `names` are the units, in the order of the densities.
    """

    def __init__(self, costs: Sequence[Cost], names: Sequence[str], *, like: Tensor) -> None:
        amounts = torch.tensor([cost.amount for cost in costs], dtype=torch.float64)
        self.amounts = (amounts / amounts.sum()).to(like)
        self.axes: list[tuple[Tensor, Tensor]] = []
        for axis in range(max((len(cost.axes) for cost in costs), default=0)):
            rows = [cost.axes[axis] if axis < len(cost.axes) else {} for cost in costs]
            shares = torch.tensor([[row.get(name, 0.0) for name in names] for row in rows], dtype=torch.float64)
            fixed = torch.tensor([1.0 - sum(row.values()) for row in rows], dtype=torch.float64)
            self.axes.append((fixed.clamp_min(0.0).to(like), shares.to(like)))

    def used(self, densities: Tensor) -> Tensor:
        """Return R, a scalar, at one density per unit, `[units]`; differentiable."""
        left = self.amounts
        for fixed, shares in self.axes:
            left = left * (fixed + shares @ densities)
        return left.sum()


def counted_share(densities: Tensor, counts: Sequence[int], totals: Sequence[int], asked: int) -> Tensor:
    """Return N / asked with N the groups that are counted, a scalar whose gradient is that of sum n_u k_u."""
    real = (densities * torch.tensor(totals).to(densities)).sum()
    return (real + (sum(counts) - real).detach()) / asked


def costs(
    model: nn.Module, weights: Mapping[str, Tensor], units: Units, currency: Currency, example: Tensor | None
) -> tuple[list[Cost], list[str]]:
    """Return the cost of every layer of `model`, and in words what stays out.

    `channel` and `filter` units that were traced take their shares of both the inputs and the outputs of a layer:
    who removes a channel removes it from those who write it and from those who read it. Others take them of the
    weight as a whole. Raises `ModelError` for FLOPs without an `example` (a batch of images `[N, ...]`).
    """
    from hedgerow.tracing import trace

    graph = None
    if example is not None and (currency == "flops" or any(isinstance(u, Shared) for u in units.values())):
        graph = trace(model, example.to(next(iter(weights.values())).device))
    axes = _axes(model, weights, units, graph)
    if currency == "parameters":
        return [Cost(weight.numel(), axes[name]) for name, weight in weights.items()], []
    if graph is None:
        raise ModelError(
            "resource flops has to trace the model: give attach() an example, a batch of images, or set resource "
            "parameters"
        )
    return _flops(graph, model, axes)


def _flops(graph: Graph, model: nn.Module, axes: Mapping[str, Axes]) -> tuple[list[Cost], list[str]]:
    from hedgerow.tracing import flops

    found = flops(graph, model)
    # A layer that is called twice costs twice; a product of two computed values has no weight to prune.
    listed = [Cost(layer.dense, axes.get(layer.weight or "", ())) for layer in found.layers]
    called = {layer.weight for layer in found.layers}
    unknown = [f"{where}: its FLOPs are not known, and no part of the penalty" for where in found.unknown]
    idle = [f"{name}: no layer whose FLOPs are counted has it" for name in axes if name not in called]
    return listed, unknown + idle


def _axes(model: nn.Module, weights: Mapping[str, Tensor], units: Units, graph: Graph | None) -> dict[str, Axes]:
    """Return the shares of the units along the axes of every weight."""
    if not any(isinstance(unit, Shared) for unit in units.values()):
        return {name: tuple({unit.name: 1.0} for unit in units.on(name)) for name in weights}
    if graph is None:
        raise TypeError("units of channels that layers share were traced; give the example that they come from")
    from hedgerow.tracing import channel_classes

    classes = channel_classes(graph, model)
    owner = _owners(units, classes)
    return {
        name: (_shares(classes.inputs[name], owner), _shares(classes.outputs[name], owner))
        if name in classes.inputs
        else ()
        for name in weights
    }


def _owners(units: Units, classes: Channels) -> dict[int, str]:
    """Return the unit of every channel class that has one."""
    owner = {}
    for unit in units.values():
        for part in unit.slices if isinstance(unit, Shared) else ():
            ids = (classes.outputs if part.axis == 0 else classes.inputs)[part.weight]
            owner.update(dict.fromkeys(ids[part.table[:, 0]].tolist(), unit.name))
    return owner


def _shares(ids: Tensor, owner: Mapping[int, str]) -> dict[str, float]:
    """Return the share of an axis, whose indices have these classes, that every unit has."""
    found: dict[str, int] = {}
    for name in _known(owner.get(k) for k in ids.tolist()):
        found[name] = found.get(name, 0) + 1
    return {name: times / len(ids) for name, times in found.items()}


def _known(names: Iterable[str | None]) -> Iterable[str]:
    return (name for name in names if name is not None)
