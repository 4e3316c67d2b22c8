"""DNR: dynamic network rewiring, a sparse network from scratch in one run (Kundu et al., 2011.03083)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from hedgerow.pruners.base import PRUNERS, Progress
from hedgerow.pruners.rewiring import Rewiring, round_up
from hedgerow.sparsity import Budget, Units

_FEW_ZEROS = 0.2  # a layer with a smaller share of zeros that asks for more than its part loses less
_FILL = 99  # percent of a layer's free places that regrowth may fill


def group_means(momenta: Mapping[str, Tensor], units: Units) -> dict[str, Tensor]:
    """Return the mean |v| of every group, by unit; of single weights |v| itself."""
    sums = units.scores({name: v.abs() for name, v in momenta.items()})
    sizes = units.scores({name: torch.ones_like(v) for name, v in momenta.items()})
    return {name: sums[name] / sizes[name] for name in sums}


def layer_shares(momenta: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, float]:
    """Return mu_l: the mean |v| over the live groups of each unit, normalised to sum 1; equal if all are 0."""
    means = {name: v[masks[name]].abs().double().mean().item() for name, v in momenta.items()}
    total = sum(means.values())
    return {name: mean / total if total else 1.0 / len(means) for name, mean in means.items()}


def removal_counts(
    live: Mapping[str, int], sizes: Mapping[str, int], shares: Mapping[str, float], removal: float
) -> dict[str, int]:
    """Return how many live groups each unit gives up: ceil(p_l * live_l), and never its last one.

    p_l is `removal`; in a layer with under 20 % zeros whose share is above 1/L, at most its share of zeros.
    """
    counts = {}
    for name, alive in live.items():
        zeros = (sizes[name] - alive) / sizes[name]
        held_back = zeros < _FEW_ZEROS and shares[name] > 1.0 / len(live)
        p = min(removal, zeros) if held_back else removal
        counts[name] = min(round_up(p * alive), alive - 1)
    return counts


def growth_counts(removed: int, free: Mapping[str, int], shares: Mapping[str, float]) -> dict[str, int]:
    """Return how many groups each unit regrows, `removed` in all, exactly.

    A layer gets ceil(mu_l * removed), at most 99 % of its free places; what exceeds them goes to the other
    layers in proportion to mu. The surplus of rounding up is taken back where it was largest, one weight a layer.
    When the caps together hold fewer than `removed`, all free places may be filled.
    """
    caps = {name: places * _FILL // 100 for name, places in free.items()}
    if sum(caps.values()) < removed:
        caps = dict(free)
    grown: dict[str, int] = {}
    while True:
        rest = [name for name in free if name not in grown]
        left = removed - sum(grown.values())
        total = sum(shares[name] for name in rest)
        exact = {name: left * (shares[name] / total if total else 1.0 / len(rest)) for name in rest}
        full = [name for name in rest if round_up(exact[name]) > caps[name]]
        if not full:
            grown |= _rounded(exact, left)
            return {name: grown[name] for name in free}
        grown |= {name: caps[name] for name in full}


def _rounded(exact: Mapping[str, float], target: int) -> dict[str, int]:
    """Round every count up, then take the surplus over `target` from those that rounding gave most."""
    counts = {name: round_up(value) for name, value in exact.items()}
    gained = sorted(exact, key=lambda name: exact[name] - counts[name])
    for name in gained[: sum(counts.values()) - target]:
        counts[name] -= 1
    return counts


@PRUNERS.register("dnr")
class DNR(Rewiring):
    """Train sparse from scratch and rewire every epoch by magnitude and momentum (DNR, 2011.03083).

    One run without a pretrained network: give `phases.prune` all the epochs and the others 0, and the objective
    `hybrid`. `removal`: share of live weights moved, from 0.5 by cosine to `removal_end` 0.005. `momentum`: of v,
    the buffer of the loss gradient at every place, live or not (0.9). `rho`: weight of the dynamic L2
    regulariser; at 0 the method is sparse momentum (1907.04840). `rescale`: start at the dense network's variance
    (ours; for networks without normalisation).
    Reconstructed, as the paper's body is not public in full: the regulariser's place in the epoch, its rho (1e-3
    is the ADMM setting of 1903.12561) and the settling of counts, exactly on the budget.
    Channels (published, not in full) and other groups go by the l2 norms of theta and v over all layers that have
    them, and mu is their units'. The budget counts groups: channels of unlike sizes may change places.
    """

    learns_budget: ClassVar[bool] = True

    def __init__(
        self,
        *,
        granularity: str = "weight",
        removal: float = 0.5,
        removal_end: float = 0.005,
        momentum: float = 0.9,
        rho: float = 1e-3,
        rescale: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            granularity=granularity, removal=removal, removal_end=removal_end, rescale=rescale, seed=seed
        )
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}; that of the rewiring's gradient buffer lies in [0, 1)")
        if not rho >= 0:
            raise ValueError(f"rho is {rho}; it weighs the dynamic L2 regulariser and must be 0 or more")
        self.momentum = momentum
        self.rho = rho

    def attach(self, model: nn.Module, budget: Budget, *, example: Tensor | None = None) -> None:
        """Mask the weights at random; v = 0, U = 0 and Z = the masked weights at the start."""
        super().attach(model, budget, example=example)
        for name, moving in self.moving.items():
            dense = self.weights[name].dense.detach()
            moving.register_buffer("v", torch.zeros_like(dense))
            if self.rho:
                moving.register_buffer("z", dense.clone())
                moving.register_buffer("u", torch.zeros_like(dense))

    def penalty(self) -> Tensor | None:
        """Return (rho/2) * sum ||theta - Z + U||^2, Z and U constants; None at rho = 0.

        It acts on the stored weights, not through the masks: what it sends never enters v.
        """
        if not self.rho:
            return None
        terms = [
            (self.weights[name].dense - moving.get_buffer("z") + moving.get_buffer("u")).square().sum()
            for name, moving in self.moving.items()
        ]
        return 0.5 * self.rho * torch.stack(terms).sum()

    def after_backward(self) -> None:
        """Update v <- momentum * v + G with the loss gradient G at every place."""
        super().after_backward()
        for moving in self.moving.values():
            v = moving.get_buffer("v").mul_(self.momentum)
            if moving.gradient is not None:
                v.add_(moving.gradient)

    def rewire(self, progress: Progress) -> None:
        """Remove by |theta|, regrow by |v|, as many as were removed; then update Z and U."""
        v = {name: moving.get_buffer("v") for name, moving in self.moving.items()}
        if not all(buffer.isfinite().all() for buffer in v.values()):
            return  # the loop reports it
        live, sizes = self.live(), {name: unit.count for name, unit in self.units.items()}
        removed, grown = dict.fromkeys(live, 0), dict.fromkeys(live, 0)
        if live != sizes:  # where nothing is removed there is nowhere to move to
            shares = layer_shares(group_means(v, self.units), self.alive())
            removed = removal_counts(live, sizes, shares, self.removal_at(progress))
            free = {name: sizes[name] - live[name] + removed[name] for name in live}
            grown = growth_counts(sum(removed.values()), free, shares)
        self.exchange(removed, grown, v)

    def move(self, name: str, survivors: Tensor, mask: Tensor) -> None:
        """Move one mask, after Z <- mask * (theta + U), U <- U + theta - Z with theta as trained."""
        if self.rho:
            theta, moving = self.weights[name].dense.detach(), self.moving[name]
            z, u = moving.get_buffer("z"), moving.get_buffer("u")
            z.copy_(theta + u)
            moving.clear(z, mask)
            u.add_(theta - z)
        super().move(name, survivors, mask)
