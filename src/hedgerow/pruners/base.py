"""What a pruner is: the decision which connections live, in at most six hooks of the training loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from hedgerow.errors import ModelError
from hedgerow.registry import Registry, UnknownNameError, nearest
from hedgerow.sparsity import (
    WEIGHT,
    Budget,
    Granularity,
    Masks,
    PrunableWeight,
    Units,
    bake,
    budget_conflict,
    detach,
    parse_granularity,
    prunable_weights,
    separate_units,
    traced_units,
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

    `granularities` are the families of those that the method makes sense for, `without` says of others why not.
    `learns` says whether it needs training steps to decide, and `from_scratch` that it takes no pretrained
    network: one phase does everything. `learns_budget`: the method spreads the budget over the layers itself, and
    meets (or beats) its total. `averages`: its masks stand still while it trains, so that the mean of its weights
    over steps is a network it could hand over. `images` says how many training images the loop gives to `attach`.
    The budget counts the groups of `units`; weights named in `whole` have none and stay whole. `check` is called
    before anything is trained. Hooks, in the order the loop calls them: `attach`, `parameters`, then each step
    `penalty`, `after_backward`, `after_step`, and `finish` at the end.
    """

    granularities: ClassVar[tuple[str, ...]] = ("weight",)
    learns: ClassVar[bool] = True
    learns_budget: ClassVar[bool] = False
    from_scratch: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    without: ClassVar[Mapping[str, str]] = {}
    images: int = 1
    granularity: Granularity = WEIGHT
    whole: frozenset[str] = frozenset()
    weights: dict[str, PrunableWeight]
    units: Units = Units(WEIGHT, (), weights=())

    def attach(self, model: nn.Module, budget: Budget, *, example: Tensor | None = None) -> None:
        """Take hold of `model`, whose prunable weights are to meet `budget` when `finish` is called.

        With `example`, a batch `[N, ...]` of images, `channel` and `filter` take channels that several layers have
        in common (behind a residual sum) as one; without it each layer has its own. `remarks` then says what stays
        whole or does not come out even. Raises `ModelError` for a granularity that fixes another density, for a
        model without anything to prune, and for one that cannot be traced.
        """
        reason = budget_conflict(self.granularity, budget.distribution, budget.sparsity)
        if reason:
            raise ModelError(f"{type(self).__name__}: {reason}")
        self.model = model
        self.budget = budget
        self.weights = prunable_weights(model)
        self.units = self._find_units(example)
        self.whole = self.units.whole

    @property
    def remarks(self) -> tuple[str, ...]:
        """What of the attached model stays whole, or does not come out even, in words."""
        return self.units.remarks

    def _find_units(self, example: Tensor | None) -> Units:
        if example is not None and self.granularity.family in ("channel", "filter"):
            return traced_units(self.model, self.weights, self.granularity, example)
        whole = whole_weights(self.weights, self.granularity)
        return separate_units(self.dense_values(), self.granularity, whole)

    def check(self, model: nn.Module, example: Tensor) -> None:
        """Raise `ModelError` when the method cannot decide on `model`, for images like `example`, `[N, ...]`."""

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

    def dense_values(self) -> dict[str, Tensor]:
        """Return the stored weights, detached, by name."""
        return {name: weight.dense.detach() for name, weight in self.weights.items()}

    def groups_to_keep(self, budget: Budget | None = None) -> dict[str, int]:
        """Return how many groups of each unit the budget keeps now."""
        return (budget or self.budget).keep(self.dense_values(), self.units)

    def hand_over(self, masks: Masks) -> Masks:
        """Remove the parametrizations, bake `masks` into the plain model and return them."""
        for weight in self.weights.values():
            detach(weight)
        bake(self.model, masks)
        return masks


PRUNERS: Registry[type[Pruner]] = Registry("pruning method")


def check_granularity(method: type[Pruner], granularity: str) -> Granularity:
    """Return the granularity of that name; `ModelError` says why `method` has no form for it."""
    try:
        found = parse_granularity(granularity)
    except (UnknownNameError, ValueError) as error:
        known = isinstance(error, ValueError)
        why = f" ({error})." if known else nearest(granularity, list(method.granularities))
        raise ModelError(_no_form(method, granularity, why)) from error
    reason = form_refusal(method, found)
    if reason:
        raise ModelError(reason)
    return found


def form_refusal(method: type[Pruner], granularity: Granularity) -> str | None:
    """Return why `method` has no form for a granularity, or None if it has one."""
    if granularity.family in method.granularities:
        return None
    if granularity.density is not None and method.learns_budget:
        why = f": it learns how much each layer keeps, and {granularity.name} fixes that."
    else:
        own = method.without.get(granularity.family)
        why = f": {own}." if own else "."
    return _no_form(method, granularity.name, why)


def _no_form(method: type[Pruner], granularity: str, why: str) -> str:
    return f"{method.__name__} has no {granularity!r} form{why} It offers: {', '.join(method.granularities)}"


def whole_weights(names: Iterable[str], granularity: Granularity) -> frozenset[str]:
    """Return which weights a structured form leaves whole that knows only their order in the model, `names`.

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
