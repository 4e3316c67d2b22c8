"""Units of coupled channels: which weights have the same ones, from the channel classes of a traced network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from hedgerow.errors import ModelError
from hedgerow.sparsity.granularity import Granularity
from hedgerow.sparsity.layers import PrunableWeight
from hedgerow.sparsity.shared import Shared, Slices
from hedgerow.sparsity.units import Units

if TYPE_CHECKING:
    from hedgerow.tracing import Channels, Graph

Axis = tuple[int, Tensor]
"""An axis of a weight, and the channel class of each of its indices."""


class ChannelClasses(Protocol):
    """Which channel positions are one thing (`hedgerow.tracing.Channels` is this).

    `inputs[name]` and `outputs[name]` are int64, the class of every index of axis 1 and axis 0 of a weight;
    `fixed` are the classes that must stay, `reasons` why.
    """

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """Classes of axis 1, by weight."""

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """Classes of axis 0, by weight."""

    @property
    def fixed(self) -> frozenset[int]:
        """Classes that stay."""

    @property
    def reasons(self) -> Mapping[int, str]:
        """Why a fixed class stays."""


def traced_units(
    model: nn.Module, weights: Mapping[str, PrunableWeight], granularity: Granularity, example: Tensor
) -> Units:
    """Return the units of `model`, traced on `example` (a batch of images `[N, ...]`, on any device).

    Raises `ModelError` when it cannot be traced, or when none of its channels may go.
    """
    _, classes = traced_channels(model, weights, granularity, example)
    return coupled_units(weights, granularity, classes)


def traced_channels(
    model: nn.Module, weights: Mapping[str, PrunableWeight], granularity: Granularity, example: Tensor
) -> tuple[Graph, Channels]:
    """Return the graph of `model` and its channel classes; `ModelError` when it cannot be traced on `example`."""
    from hedgerow.tracing import channel_classes, trace

    device = next(iter(weights.values())).dense.device
    try:
        graph = trace(model, example.to(device))
        return graph, channel_classes(graph, model)
    except ModelError as error:
        raise ModelError(
            f"granularity {granularity.name!r} has to know which layers share channels, but {error}. Change that, "
            "or choose a granularity within layers: weight, kernel, a block or n:m"
        ) from error


def coupled_units(
    weights: Mapping[str, PrunableWeight], granularity: Granularity, classes: ChannelClasses
) -> Units:
    """Return one unit for every set of weights that have the same channels, as often as each other.

    `channel`: a channel lies in the layers that read it, along their input axis, and in depthwise convolutions
    along their output axis. `filter`: it lies in the layers that write it, along their output axis. Fixed
    channels belong to no unit, nor do those that no prunable weight has.

    Raises `ModelError` when no channel may go, and when a class list does not fit its weight.
    """
    axes = _axes(weights, granularity, classes)
    alike: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for channel, places in sorted(_places(axes, classes.fixed).items()):
        alike.setdefault(tuple(places.items()), []).append(channel)
    units: dict[str, Shared] = {}
    for where, channels in alike.items():
        name, readers = _name(where[0][0], units), [weight for weight, _ in where]
        idle = _idle(readers, channels, axes, granularity, classes)
        parts = [Slices(n, axes[n][0], _table(axes[n][1], channels), passes_on=n in idle) for n in readers]
        units[name] = Shared(name, tuple(parts))
    found = Units(granularity, units.values(), weights=weights, remarks=_remarks(weights, axes, classes))
    if not found:
        raise ModelError(
            f"no {granularity.name} may be removed: {'; '.join(found.remarks)}. Choose another granularity"
        )
    return found


def group_classes(units: Units, classes: ChannelClasses) -> dict[str, Tensor]:
    """Return the channel class of every group of units of coupled channels, int64 `[groups]`, by unit."""
    found = {}
    for unit in units.values():
        if isinstance(unit, Shared):
            part = unit.slices[0]
            along = classes.outputs if part.axis == 0 else classes.inputs
            found[unit.name] = along[part.weight].cpu()[part.table[:, 0]]
    return found


def _axes(
    weights: Mapping[str, PrunableWeight], granularity: Granularity, classes: ChannelClasses
) -> dict[str, Axis]:
    found: dict[str, Axis] = {}
    for name, weight in weights.items():
        if name not in classes.outputs:
            continue
        outwards = granularity.axes == (0,) or _is_depthwise(weight)
        axis, ids = (0, classes.outputs[name]) if outwards else (1, classes.inputs[name])
        size = weight.dense.shape[axis]
        if len(ids) != size:
            raise ModelError(f"{name} has {size} indices on axis {axis}, its channel classes are {len(ids)}")
        found[name] = (axis, ids.cpu())
    return found


def _is_depthwise(weight: PrunableWeight) -> bool:
    return getattr(weight.module, "groups", 1) > 1 and weight.dense.shape[1] == 1


def _idle(
    names: Sequence[str],
    channels: Sequence[int],
    axes: Mapping[str, Axis],
    granularity: Granularity,
    classes: ChannelClasses,
) -> set[str]:
    """Return the layers that only pass channels on, where all who read what they pass lose the channels too."""
    passing = {name for name in names if granularity.axes == (1,) and axes[name][0] == 0}
    wanted = torch.tensor(channels)
    foreign = any(name not in axes and bool(torch.isin(ids, wanted).any()) for name, ids in classes.inputs.items())
    return set() if foreign or len(passing) == len(names) else passing


def _places(axes: Mapping[str, Axis], fixed: frozenset[int]) -> dict[int, dict[str, int]]:
    """Return for every channel that may go the weights it lies in, and how many indices of each it takes."""
    places: dict[int, dict[str, int]] = {}
    for name, (_, ids) in axes.items():
        for channel, times in sorted(Counter(ids.tolist()).items()):
            if channel not in fixed:
                places.setdefault(channel, {})[name] = times
    return places


def _table(ids: Tensor, channels: Sequence[int]) -> Tensor:
    """Return the indices of each of these channels, which come equally often, `[channels, times]`."""
    order = ids.argsort(stable=True)
    wanted = torch.isin(ids[order], torch.tensor(channels))
    return order[wanted].view(len(channels), -1)


def _name(first: str, taken: Mapping[str, Shared]) -> str:
    name, number = first, 1
    while name in taken:
        number += 1
        name = f"{first} #{number}"
    return name


def _remarks(
    weights: Mapping[str, PrunableWeight], axes: Mapping[str, Axis], classes: ChannelClasses
) -> list[str]:
    """Return a sentence for every weight with channels that stay, and why they do."""
    found = []
    for name in weights:
        if name not in axes:
            found.append(f"{name}: no layer of the traced forward pass, so it stays whole")
            continue
        ids = axes[name][1]
        stay = [k for k in ids.tolist() if k in classes.fixed]
        why = dict.fromkeys(classes.reasons.get(k, "they must stay") for k in stay)
        if stay:
            share = "stays whole" if len(stay) == len(ids) else f"{len(stay)} of {len(ids)} channels stay"
            found.append(f"{name}: {share} ({'; '.join(why)})")
    return found
