"""Networks with hand-made channel classes, and slow lists of what their channels consist of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hedgerow.sparsity import FILTER, Granularity, Units, coupled_units, prunable_weights

Place = tuple[str, int, int]
"""A weight, an axis and an index."""


@dataclass
class Classes:
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    fixed: frozenset[int]
    reasons: dict[int, str] = field(default_factory=dict)


def numbers(*parts: range | list[int]) -> Tensor:
    return torch.tensor([i for part in parts for i in part])


def residual() -> tuple[nn.ModuleDict, Classes]:
    """Stem, a residual block, a depthwise convolution, and a linear layer on 4 features per channel.

    Classes: 0-1 the image, 2-7 the stream, 8-10 inside the block, 11-13 the logits, 14 depthwise.
    """
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "stem": nn.Conv2d(2, 6, 3),
            "a": nn.Conv2d(6, 3, 3),
            "b": nn.Conv2d(3, 6, 3),
            "depthwise": nn.Conv2d(6, 6, 3, groups=6),
            "fc": nn.Linear(24, 3),
        }
    )
    stream, logits = range(2, 8), range(11, 14)
    repeated = [c for c in stream for _ in range(4)]
    inputs = {"stem": range(2), "a": stream, "b": range(8, 11), "depthwise": [14], "fc": repeated}
    outputs = {"stem": stream, "a": range(8, 11), "b": stream, "depthwise": stream, "fc": logits}
    reasons = {0: "the image", 1: "the image", 14: "depthwise", **dict.fromkeys(logits, "the outputs")}
    return model, Classes(
        {f"{n}.weight": numbers(ids) for n, ids in inputs.items()},
        {f"{n}.weight": numbers(ids) for n, ids in outputs.items()},
        frozenset(reasons),
        reasons,
    )


def concatenated() -> tuple[nn.ModuleDict, Classes]:
    """`first` reads a (classes 1-3), `second` reads the image (0), a and b (4-5); `third` is not in the graph."""
    torch.manual_seed(0)
    layers = {"first": nn.Linear(3, 2), "second": nn.Linear(6, 4), "third": nn.Linear(2, 2)}
    inputs = {"first.weight": numbers(range(1, 4)), "second.weight": numbers(range(6))}
    outputs = {"first.weight": numbers([4, 5]), "second.weight": numbers(range(6, 10))}
    return nn.ModuleDict(layers), Classes(inputs, outputs, frozenset([0, *range(6, 10)]), {0: "the image"})


def dense(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.dense.detach() for name, weight in prunable_weights(model).items()}


def units_of(make: Callable[[], tuple[nn.Module, Classes]], granularity: Granularity) -> tuple[Units, nn.Module]:
    model, classes = make()
    return coupled_units(prunable_weights(model), granularity, classes), model


def entries(weights: dict[str, Tensor], where: list[Place]) -> list[float]:
    return [v for name, axis, i in where for v in weights[name].select(axis, i).flatten().tolist()]


def stream_places(granularity: Granularity) -> list[list[Place]]:
    """What the six channels of the stream of `residual` consist of."""
    if granularity is FILTER:
        return [[("stem.weight", 0, i), ("b.weight", 0, i), ("depthwise.weight", 0, i)] for i in range(6)]
    reads = [[("a.weight", 1, i), ("depthwise.weight", 0, i)] for i in range(6)]
    return [[*reads[i], *(("fc.weight", 1, 4 * i + k) for k in range(4))] for i in range(6)]
