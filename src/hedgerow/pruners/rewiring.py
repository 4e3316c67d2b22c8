"""Rewiring: what the methods share that train a sparse network from scratch and move its mask as they go."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from hedgerow.pruners.base import Progress, Pruner, check_granularity
from hedgerow.seeds import derive
from hedgerow.sparsity import Budget, MaskedWeight, Masks, attach, topk_mask
from hedgerow.sparsity.unit import Values

_SLACK = 1e-9  # what float rounding may add to a product that is a whole number


def round_up(value: float) -> int:
    """Return the ceiling of `value`, not one more where float rounding lifted a whole number by a hair."""
    return math.ceil(value - _SLACK)


def cosine_share(start: float, end: float, done: float) -> float:
    """Return `end + (start - end) * (1 + cos(pi * done)) / 2`: `start` at `done` = 0, `end` at 1."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * done))


def random_mask(weight: Tensor, keep: int, seed: int) -> Tensor:
    """Return a boolean mask with `keep` random places True; the same ones on every device."""
    order = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(weight.numel(), dtype=torch.bool)
    mask[order[:keep]] = True
    return mask.view(weight.shape).to(weight.device)


def drop_smallest(weight: Tensor, mask: Tensor, count: int) -> Tensor:
    """Return `mask` without the `count` live places of smallest |w|; of equal ones the lower flat index goes."""
    live = int(mask.sum())
    return topk_mask(torch.where(mask, weight.abs(), -1.0), live - count)


def grow_largest(score: Tensor, mask: Tensor, count: int) -> Tensor:
    """Return `mask` with the `count` free places of largest |score| added; of equal ones the higher flat index."""
    live = int(mask.sum())
    return topk_mask(torch.where(mask, torch.inf, score.abs()), live + count)


class MovingMask(MaskedWeight):
    """A mask that moves; `gradient` gathers the loss gradient to the effective weight, at free places too.

    The gradient to the stored weight is masked as ever. `gradient` holds what the objective sent through this
    weight and nothing else: no penalty, no weight decay. None when no backward came by.

    With `passes_on` it is a depthwise layer between layers that lose the same channels: its own slices make no
    difference, and were they 0 no gradient would reach those layers. It trains whole, and is masked at the end.
    """

    gradient: Tensor | None = None

    def __init__(self, mask: Tensor, *, passes_on: bool = False) -> None:
        super().__init__(mask)
        self.passes_on = passes_on

    def effective(self, dense: Tensor) -> Tensor:
        """Return the masked weight, and listen to the gradient that comes back to it."""
        value = dense.view_as(dense) if self.passes_on else super().effective(dense)
        if value.requires_grad:
            value.register_hook(self._gather)  # type: ignore[no-untyped-call]
        return value

    def sparse(self, dense: Tensor) -> Tensor:
        """Return the masked weight."""
        return super().effective(dense)

    def clear(self, tensor: Tensor, survivors: Tensor | None = None) -> None:
        """Set what is removed, or all but `survivors`, to 0, in place."""
        if not self.passes_on:
            tensor.masked_fill_(~(self.mask if survivors is None else survivors), 0.0)

    def _gather(self, gradient: Tensor) -> None:
        self.gradient = gradient if self.gradient is None else self.gradient + gradient


class Rewiring(Pruner):
    """Base of the rewiring methods: random masks at the start, removed weights that stay exactly 0, the timing.

    A method defines `rewire`, which is called between any two epochs, once: after the first step of the later
    one. At the end of an epoch the network is thus validated, and kept as the best so far, with all its live
    weights trained; none has just been taken away or put in at 0. What moves are the groups of `units`.
    """

    granularities: ClassVar[tuple[str, ...]] = ("weight", "channel", "kernel", "block")
    without: ClassVar[Mapping[str, str]] = {
        "filter": "a filter regrown at 0 has gradients without scale where a batch normalisation follows",
        "n:m": "what it drops in one place it regrows in any other",
    }
    from_scratch: ClassVar[bool] = True

    def __init__(
        self,
        *,
        granularity: str = "weight",
        removal: float = 0.5,
        removal_end: float = 0.005,
        rescale: bool = False,
        seed: int = 0,
    ) -> None:
        self.granularity = check_granularity(type(self), granularity)
        if not 0 <= removal < 1:
            raise ValueError(f"removal is {removal}; it is the share of live weights to move and lies in [0, 1)")
        if not 0 <= removal_end <= removal:
            raise ValueError(f"removal_end is {removal_end}; it lies between 0 and removal ({removal})")
        self.removal = removal
        self.removal_end = removal_end
        self.rescale = rescale
        self.seed = seed

    def attach(self, model: nn.Module, budget: Budget, *, example: Tensor | None = None) -> None:
        """Let exactly the budget's count of random groups live in every unit; the rest of each weight is 0.

        With `rescale` what stays is divided by the square root of the layer's density, so that the units of a
        network without normalisation start at the variance of the dense one (2010.03533).
        """
        super().attach(model, budget, example=example)
        keep, values = self.groups_to_keep(), self.dense_values()
        groups = self.units.scores({name: torch.ones_like(value) for name, value in values.items()})
        live = {n: random_mask(each, keep[n], derive(self.seed, "mask", n)) for n, each in groups.items()}
        self.moving: dict[str, MovingMask] = {}
        for name, mask in self.units.masks(live, values).items():
            if name in self.whole:
                continue
            idle = all(unit.passes_on(name) for unit in self.units.on(name))
            if self.rescale and not idle:
                values[name].mul_(math.sqrt(mask.numel() / int(mask.sum())))
            self.moving[name] = MovingMask(mask, passes_on=idle)
            attach(self.weights[name], self.moving[name])
        self._clear()

    def after_backward(self) -> None:
        """Keep the gradients of removed weights (a penalty may send some) from the optimiser."""
        for name, moving in self.moving.items():
            gradient = self.weights[name].dense.grad
            if gradient is not None:
                moving.clear(gradient)

    def after_step(self, progress: Progress) -> None:
        """Set to 0 what the optimiser's momentum moved under the mask; rewire once an epoch."""
        self._clear()
        if progress.epoch > 0 and progress.step == 0:
            with torch.no_grad():
                self.rewire(progress)
        for moving in self.moving.values():
            moving.gradient = None

    def rewire(self, progress: Progress) -> None:
        """Move the masks."""
        raise TypeError(f"{type(self).__name__} must define rewire()")

    def removal_at(self, progress: Progress) -> float:
        """Return the share of live groups to move now: `removal` falling by cosine to `removal_end`, per step."""
        return cosine_share(self.removal, self.removal_end, progress.fraction)

    def alive(self) -> dict[str, Tensor]:
        """Return which groups of each unit live now, a boolean per group."""
        masks = {name: moving.mask.float() for name, moving in self.moving.items()}
        return {name: scores > 0 for name, scores in self.units.scores(masks).items()}

    def live(self) -> dict[str, int]:
        """Return how many groups of each unit live now."""
        return {name: int(alive.sum()) for name, alive in self.alive().items()}

    def exchange(self, removed: Mapping[str, int], grown: Mapping[str, int], wanted: Values) -> None:
        """Remove so many groups of smallest |w| from every unit, then add so many where `wanted` is largest.

        `wanted` has the shapes of the weights. A group's size is its l2 norm.
        """
        sizes, calls, alive = self.units.norms(self.dense_values()), self.units.norms(wanted), self.alive()
        stay = {name: drop_smallest(sizes[name], alive[name], removed[name]) for name in alive}
        then = {name: grow_largest(calls[name], stay[name], grown[name]) for name in alive}
        for name, moving in self.moving.items():
            self.move(name, *(self.units.mask(live, name, moving.mask) for live in (stay, then)))

    def move(self, name: str, survivors: Tensor, mask: Tensor) -> None:
        """Make `mask` the mask of a weight; all but `survivors` is 0, so that regrown weights start there."""
        self.moving[name].clear(self.weights[name].dense.detach(), survivors)
        self.moving[name].mask.copy_(mask)

    def finish(self) -> Masks:
        """Return the masks of the last rewiring; the model is plain, with exact zeros."""
        return self.hand_over(self.units.masks(self.alive(), self.dense_values()))

    def _clear(self) -> None:
        for name, moving in self.moving.items():
            moving.clear(self.weights[name].dense.detach())
