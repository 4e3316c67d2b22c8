"""Does a smaller copy compute the graph that it should? User code may hold numbers that removal cannot reach."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hedgerow.compact.wires import followed
from hedgerow.tracing import Channels, Graph, Node, trace, undisturbed

_NUMBER = ("slice", "pad", "conv", "group_norm")


def expected_shape(node: Node, channels: Channels, removed: Tensor) -> tuple[int, ...]:
    """Return the shape of a node's value without the removed classes."""
    shape = list(node.shape)
    if followed(channels, node):
        axis, ids = channels.nodes[node.name]
        shape[axis] = int((~removed[ids]).sum())
    return tuple(shape)


def expected_attributes(node: Node, channels: Channels, removed: Tensor) -> dict[str, Any]:
    """Return the attributes of a node without the removed classes: bounds, padding and groups follow."""
    given = dict(node.attributes)
    if node.op not in _NUMBER or not followed(channels, node.inputs[0]):
        return given
    axis, ids = channels.nodes[node.inputs[0].name]
    stay = ~removed[ids]
    if node.op == "slice" and axis == given["dim"]:
        given |= {end: int(stay[: given[end]].sum()) for end in ("start", "stop")}
    elif node.op == "pad" and followed(channels, node):
        before, after = given["pads"][axis]
        whole = ~removed[channels.nodes[node.name][1]]
        pads = list(given["pads"])
        pads[axis] = (int(whole[:before].sum()), int(whole[len(whole) - after :].sum()))
        given["pads"] = tuple(pads)
    elif node.op in ("conv", "group_norm") and 1 < given["groups"] == len(ids):
        given["groups"] = int(stay.sum())
    return given


def obstacle(
    small: nn.Module, example: Tensor, graph: Graph, channels: Channels, removed: Tensor, answers: Answers
) -> str | None:
    """Return in words why `small` is not the network of `graph` without `removed`; None when it is.

    It is when it gives the same answers, and its own trace has the same operations, with the numbers that
    removal leaves.
    """
    try:
        wrong = answers.differ(small)
        after = trace(small, example) if wrong is None else graph
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        return f"the forward pass does not take fewer channels ({type(error).__name__}: {said})"
    if wrong is not None:
        return wrong
    place = ({node: i for i, node in enumerate(g.nodes)} for g in (graph, after))
    before, now = place
    for a, b in itertools.zip_longest(graph.nodes, after.nodes):
        if a is None or b is None or not _matches(a, b, channels, removed, before, now):
            return f"the forward pass holds a channel number of its own at {(a or b).where}"
    for name, tensor in graph.constants.items():
        if name not in after.constants or not torch.equal(tensor, after.constants[name]):
            return f"the forward pass makes {name} by the number of channels"
    return None


def _matches(
    a: Node, b: Node, channels: Channels, removed: Tensor, before: Mapping[Node, int], now: Mapping[Node, int]
) -> bool:
    return (
        a.op == b.op
        and [before[n] for n in a.inputs] == [now[n] for n in b.inputs]
        and expected_shape(a, channels, removed) == b.shape
        and expected_attributes(a, channels, removed) == dict(b.attributes)
        and all(b.weights.get(role) == name for role, name in a.weights.items())
    )


class Answers:
    """What a model in eval mode says of the example and of noise like it."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        images = [example.detach()[:2]]
        if example.is_floating_point():
            generator = torch.Generator().manual_seed(0)
            noise = torch.randn(2, *example.shape[1:], generator=generator, dtype=torch.float64)
            images.append(noise.to(example.device, example.dtype))
        self._images = images
        self._expected = self._of(model)

    def _of(self, model: nn.Module) -> list[Tensor]:
        with undisturbed(model, self._images[0].device), torch.no_grad():
            return [model(x.clone()) for x in self._images]

    def differ(self, model: nn.Module) -> str | None:
        """Return in words that `model` answers differently, beyond rounding; None when it does not."""
        for expected, found in zip(self._expected, self._of(model), strict=True):
            slack = torch.finfo(expected.dtype).eps ** 0.5
            scale = float(expected.nan_to_num(0, 0, 0).abs().max())
            close = found.shape == expected.shape and torch.allclose(
                found, expected, rtol=slack, atol=slack * scale, equal_nan=True
            )
            if not close:
                return "the forward pass computes something else with fewer channels"
        return None
