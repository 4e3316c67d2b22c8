"""Channel positions while a graph is walked: which go together, which must stay, which parameters have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hedgerow.tracing.nodes import Node


@dataclass(frozen=True)
class Followed:
    """The channels of a value: position i of `axis` belongs to the class of `ids[i]`."""

    axis: int
    ids: Tensor


State = Followed | str
"""The channels of a value, or in words why they are not followed."""


@dataclass
class Coupling:
    """Positions as ids, which of them go together (`ties`), which must stay, and where parameters have them.

    `shape_of` gives the shape of a parameter, `varying` are the nodes that depend on the images.
    """

    shape_of: Callable[[str], torch.Size]
    varying: frozenset[Node]
    count: int = 0
    ties: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    kept: list[tuple[Tensor, str]] = field(default_factory=list)
    parameters: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    def fresh(self, count: int) -> Tensor:
        """Return `count` new ids."""
        self.count += count
        return torch.arange(self.count - count, self.count)

    def keep(self, ids: Tensor, reason: str) -> Tensor:
        """Say that these must not be removed; return them."""
        self.kept.append((ids, reason))
        return ids

    def give_up(self, states: list[State], reason: str) -> str:
        """Keep every channel that enters, and follow none beyond; return the reason."""
        for state in states:
            if isinstance(state, Followed):
                self.keep(state.ids, reason)
        return reason

    def pass_on(self, state: State, condition: bool, reason: str) -> State:
        """Return the state as it is; unless the condition holds, its channels are kept."""
        if isinstance(state, Followed) and not condition:
            self.keep(state.ids, reason)
        return state

    def parameter(self, name: str, axis: int, ids: Tensor) -> None:
        """Say that an axis of a parameter has these ids; a second use ties them to those of the first."""
        self.ties.append((self.parameters.setdefault((name, axis), ids), ids))

    def as_it_is(self, node: Node, reason: str, *, but: int | None = None) -> None:
        """Keep all axes of the parameter behind a constant, but for one."""
        for axis, size in enumerate(node.shape):
            if axis != but:
                self.parameter(node.weights["value"], axis, self.keep(self.fresh(size), reason))

    def entering(self, node: Node, state: State, axis: int, what: str) -> Tensor:
        """Return the ids of the channels that a layer takes on `axis`; new ones that stay, if not followed."""
        if isinstance(state, Followed) and state.axis == axis:
            return state.ids
        reason = state if isinstance(state, str) else f"{what} of {node.where} lie on another axis"
        self.give_up([state], reason)
        return self.keep(self.fresh(node.inputs[0].shape[axis]), reason)
