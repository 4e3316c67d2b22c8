"""A small network whose layers share channels, its forms of pruning, and slow lists of what belongs together."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from hedgerow import tracing
from hedgerow.pruners import PRUNERS, base
from hedgerow.sparsity import Granularity, PrunableWeight, Units, coupled_units, parse_granularity
from hedgerow.sparsity.blocks import EXAMPLES, Blocks, NofM
from hedgerow.tracing import Channels, Graph, channel_classes, trace

EXAMPLE = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(5))
FORMS = {parse_granularity(name).family: name for name in EXAMPLES}
CASES = [(method, FORMS[family]) for method in PRUNERS for family in PRUNERS[method].granularities]
every_case = pytest.mark.parametrize(("method", "form"), CASES, ids=[f"{m}-{f}" for m, f in CASES])


class Coupled(nn.Module):
    """A stream of 6 channels with a residual block on it, a depthwise layer behind it, and features flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.inner, self.outer = nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, stride=2, groups=6)
        self.fc = nn.Linear(6 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.outer(torch.tanh(self.inner(x)))
        return self.fc(self.depthwise(x).relu().flatten(1))


def coupled() -> nn.Module:
    torch.manual_seed(0)
    return Coupled()


@functools.cache
def graph() -> Graph:
    return trace(coupled(), EXAMPLE)


@functools.cache
def classes() -> Channels:
    return channel_classes(graph(), coupled())


def trace_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every `attach` with an example take `Coupled` and its channels from one trace: tracing is slow."""

    def known(
        model: nn.Module, weights: Mapping[str, PrunableWeight], granularity: Granularity, example: Tensor
    ) -> Units:
        return coupled_units(weights, granularity, classes())

    graph()
    monkeypatch.setattr(base, "traced_units", known)
    monkeypatch.setattr(tracing, "trace", lambda model, example: graph())


def sparsity_of(form: str) -> str:
    density = parse_granularity(form).density
    return "0.6" if density is None else str(1 - density)


Group = list[tuple[str, int]]
"""Entries that live or die together: a weight and a flat index in it."""


def shared_groups(form: str) -> dict[str, list[Group]]:
    """The channels of `Coupled`, those of the stream and those inside the block."""
    shapes = {name: list(weight.shape) for name, weight in coupled().named_parameters() if weight.dim() > 1}

    def slices(name: str, axis: int, index: int) -> Group:
        places = torch.arange(torch.Size(shapes[name]).numel()).view(shapes[name]).select(axis, index)
        return [(name, i) for i in places.flatten().tolist()]

    if form == "filter":
        stream = [[*slices("stem.weight", 0, c), *slices("outer.weight", 0, c)] for c in range(6)]
        stream = [group + slices("depthwise.weight", 0, c) for c, group in enumerate(stream)]
        return {"stream": stream, "inside": [slices("inner.weight", 0, c) for c in range(4)]}
    stream = [[*slices("inner.weight", 1, c), *slices("depthwise.weight", 0, c)] for c in range(6)]
    for c, group in enumerate(stream):
        group += [place for k in range(9) for place in slices("fc.weight", 1, 9 * c + k)]
    return {"stream": stream, "inside": [slices("outer.weight", 1, c) for c in range(4)]}


def own_groups(name: str, shape: torch.Size, granularity: Granularity) -> list[Group]:
    """The groups of one weight that shares nothing; of a pattern, its groups of m."""
    index = torch.arange(shape.numel()).view(shape)
    rows = [row.movedim(0, -1).flatten().tolist() for row in index]
    if isinstance(granularity, NofM):
        m = granularity.m
        return [[(name, i) for i in row[k : k + m]] for row in rows for k in range(0, len(row), m)]
    if isinstance(granularity, Blocks):
        tops = range(0, len(rows), granularity.height)
        lefts = range(0, len(rows[0]), granularity.width)
        return [
            [(name, i) for r in rows[t : t + granularity.height] for i in r[k : k + granularity.width]]
            for t, k in itertools.product(tops, lefts)
        ]
    axes = range(len(shape)) if granularity.axes is None else granularity.axes
    groups: dict[tuple[int, ...], Group] = {}
    for i, place in enumerate(itertools.product(*(range(size) for size in shape))):
        groups.setdefault(tuple(place[axis] for axis in axes), []).append((name, i))
    return list(groups.values())


@functools.cache
def all_groups(form: str) -> dict[str, list[Group]]:
    """Groups of `Coupled`, by the set among which a budget counts them; whole weights are in none."""
    if form in ("channel", "filter"):
        return shared_groups(form)
    weights = {name: weight for name, weight in coupled().named_parameters() if weight.dim() > 1}
    return {name: own_groups(name, weight.shape, parse_granularity(form)) for name, weight in weights.items()}


def values(weights: dict[str, Tensor], group: Group) -> list[float]:
    found: list[float] = []
    for name, places in itertools.groupby(group, key=lambda place: place[0]):
        found += weights[name].flatten()[[i for _, i in places]].tolist()
    return found


def norm(weights: dict[str, Tensor], group: Group) -> float:
    return math.sqrt(sum(v * v for v in values(weights, group)))


def largest_half(group: Group, weight: Tensor) -> tuple[list[int], float]:
    """The flat indices of the larger half of a group, rounded up, and the largest magnitude of the rest."""
    sizes = {i: abs(v) for (_, i), v in zip(group, values({group[0][0]: weight}, group), strict=True)}
    ranked = sorted(sizes, key=lambda i: -sizes[i])
    stay = math.ceil(len(group) / 2)
    return ranked[:stay], sizes[ranked[stay]] if stay < len(ranked) else 0.0
