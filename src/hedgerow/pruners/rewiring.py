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
    """

    gradient: Tensor | None = None

    def effective(self, dense: Tensor) -> Tensor:
        """Return the masked weight, and listen to the gradient that comes back to it."""
        value = super().effective(dense)
        if value.requires_grad:
            value.register_hook(self._gather)  # type: ignore[no-untyped-call]
        return value

    def _gather(self, gradient: Tensor) -> None:
        self.gradient = gradient if self.gradient is None else self.gradient + gradient


class Rewiring(Pruner):
    """Base of the rewiring methods: random masks at the start, removed weights that stay exactly 0, the timing.

    A method defines `rewire`, which is called between any two epochs, once: after the first step of the later
    one. At the end of an epoch the network is thus validated, and kept as the best so far, with all its live
    weights trained; none has just been taken away or put in at 0.
    """

    granularities: ClassVar[tuple[str, ...]] = ("weight",)
    without: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("kernel", "channel", "filter", "block", "n:m"), "it drops and regrows single weights"
    )
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
        check_granularity(type(self), granularity)
        if not 0 <= removal < 1:
            raise ValueError(f"removal is {removal}; it is the share of live weights to move and lies in [0, 1)")
        if not 0 <= removal_end <= removal:
            raise ValueError(f"removal_end is {removal_end}; it lies between 0 and removal ({removal})")
        self.removal = removal
        self.removal_end = removal_end
        self.rescale = rescale
        self.seed = seed

    def attach(self, model: nn.Module, budget: Budget, *, example: Tensor | None = None) -> None:
        """Put a random mask of exactly the budget's count on every weight; the rest of each weight is 0.

        With `rescale` what stays is divided by the square root of the layer's density, so that the units of a
        network without normalisation start at the variance of the dense one (2010.03533).
        """
        super().attach(model, budget, example=example)
        keep = self.groups_to_keep()
        self.moving: dict[str, MovingMask] = {}
        for name, weight in self.weights.items():
            mask = random_mask(weight.dense.detach(), keep[name], derive(self.seed, "mask", name))
            if self.rescale:
                weight.dense.detach().mul_(math.sqrt(mask.numel() / keep[name]))
            self.moving[name] = MovingMask(mask)
            attach(weight, self.moving[name])
        self._clear()

    def after_backward(self) -> None:
        """Keep the gradients of removed weights (a penalty may send some) from the optimiser."""
        for name, weight in self.weights.items():
            if weight.dense.grad is not None:
                weight.dense.grad.masked_fill_(~self.moving[name].mask, 0.0)

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
        """Return the share of live weights to move now: `removal` falling by cosine to `removal_end`, per step."""
        return cosine_share(self.removal, self.removal_end, progress.fraction)

    def live(self) -> dict[str, int]:
        """Return how many weights of each layer live now."""
        return {name: int(moving.mask.sum()) for name, moving in self.moving.items()}

    def move(self, name: str, survivors: Tensor, mask: Tensor) -> None:
        """Make `mask` the mask of a weight; all but `survivors` is 0, so that regrown weights start there."""
        self.weights[name].dense.detach().masked_fill_(~survivors, 0.0)
        self.moving[name].mask.copy_(mask)

    def finish(self) -> Masks:
        """Return the masks of the last rewiring; the model is plain, with exact zeros."""
        return self.hand_over({name: moving.mask.clone() for name, moving in self.moving.items()})

    def _clear(self) -> None:
        for name, weight in self.weights.items():
            weight.dense.detach().masked_fill_(~self.moving[name].mask, 0.0)
