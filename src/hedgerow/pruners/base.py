"""What a pruner is: the decision which connections live, in at most six hooks of the training loop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from hedgerow.errors import ModelError
from hedgerow.registry import Registry
from hedgerow.sparsity import (
    WEIGHT,
    Budget,
    Granularity,
    Masks,
    PrunableWeight,
    bake,
    detach,
    prunable_weights,
)


@dataclass(frozen=True)
class Progress:
    """Where the loop stands after an optimiser step; `epoch` and `step` count from 0."""

    epoch: int
    epochs: int
    step: int
    steps: int

    @property
    def epoch_ends(self) -> bool:
        """Whether this was the last step of its epoch."""
        return self.step + 1 == self.steps

    @property
    def fraction(self) -> float:
        """Share of the phase that is done, in (0, 1]."""
        return (self.epoch * self.steps + self.step + 1) / (self.epochs * self.steps)


class Pruner:
    """Base of all methods: keeps the model's weights by name and does nothing in any hook.

    `granularities` are the ones the method makes sense for; `learns` says whether it needs training steps to
    decide, and `from_scratch` that it takes no pretrained network: one phase does everything. `learns_budget`:
    the method spreads the budget over the layers itself, and meets (or beats) its total. The budget counts
    groups of `granularity`; weights named in `whole` stay whole and are no part of it. Hooks, in the order the
    loop calls them: `attach`, `parameters`, then each step `penalty`, `after_backward`, `after_step`, and
    `finish` at the end.
    """

    granularities: ClassVar[tuple[str, ...]] = ("weight",)
    learns: ClassVar[bool] = True
    learns_budget: ClassVar[bool] = False
    from_scratch: ClassVar[bool] = False
    granularity: Granularity = WEIGHT
    whole: frozenset[str] = frozenset()
    weights: dict[str, PrunableWeight]

    def attach(self, model: nn.Module, budget: Budget) -> None:
        """Take hold of `model`, whose prunable weights are to meet `budget` when `finish` is called."""
        self.model = model
        self.budget = budget
        self.weights = prunable_weights(model)

    def parameters(self) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups; a group may fix its own options, such as weight_decay."""
        return [{"params": [p for p in self.model.parameters() if p.requires_grad]}]

    def penalty(self) -> Tensor | None:
        """Return a scalar to add to the objective's loss, or None."""
        return None

    def after_backward(self) -> None:
        """See and change gradients before the optimiser steps."""

    def after_step(self, progress: Progress) -> None:
        """Act after the optimiser stepped."""

    def finish(self) -> Masks:
        """Return the masks (bool, one per prunable weight) and leave `model` plain, exact zeros baked in."""
        raise TypeError(f"{type(self).__name__} must define finish()")

    def state_dict(self) -> dict[str, Any]:
        """Return what must survive an interruption beyond the model's own state_dict."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""

    def groups_to_keep(self, budget: Budget | None = None) -> dict[str, int]:
        """Return how many groups of each weight the budget keeps now; weights in `whole` keep all of theirs."""
        dense = {name: weight.dense.detach() for name, weight in self.weights.items()}
        pruned = {name: weight for name, weight in dense.items() if name not in self.whole}
        keep = (budget or self.budget).keep(pruned, self.granularity)
        return {name: keep[name] if name in keep else self.granularity.count(w) for name, w in dense.items()}

    def hand_over(self, masks: Masks) -> Masks:
        """Remove the parametrizations, bake `masks` into the plain model and return them."""
        for weight in self.weights.values():
            detach(weight)
        bake(self.model, masks)
        return masks


PRUNERS: Registry[type[Pruner]] = Registry("pruning method")


def check_granularity(method: type[Pruner], granularity: str) -> None:
    """Raise `ModelError` when `method` has no form for this granularity."""
    if granularity not in method.granularities:
        raise ModelError(
            f"{method.__name__} has no {granularity!r} form; it offers: {', '.join(method.granularities)}"
        )


def whole_weights(names: Iterable[str], granularity: Granularity) -> frozenset[str]:
    """Return which weights a structured form must leave whole; `names` in the order of the model.

    The first for `channel`: its input channels are the image's. The last for `filter`: its rows are the classes.
    Raises `ModelError` when that leaves nothing to prune.
    """
    ordered = list(names)
    whole = {"channel": ordered[:1], "filter": ordered[-1:]}.get(granularity.name, [])
    if len(whole) == len(ordered):
        raise ModelError(
            f"{', '.join(whole)} is the model's only prunable weight and has to stay whole at granularity "
            f"{granularity.name!r}; choose another granularity"
        )
    return frozenset(whole)
