"""Flying Bird: sparse adversarial training from scratch with a moving mask (Chen et al., 2202.09844)."""

from __future__ import annotations

import torch

from hedgerow.pruners.base import PRUNERS, Progress
from hedgerow.pruners.rewiring import Rewiring, round_up


def exchange_count(live: int, size: int, removal: float) -> int:
    """Return how many groups of a unit move: ceil(removal * live), at most its free places, never its last."""
    return max(0, min(round_up(removal * live), live - 1, size - live))


@PRUNERS.register("flying-bird")
class FlyingBird(Rewiring):
    """Train sparse from scratch; drop small weights and regrow by gradient within each layer (2202.09844).

    One run without a pretrained network: give `phases.prune` all the epochs and the others 0; the published
    start is `distribution: erk`. Every `every` epochs (1; the authors' code: 900 to 1200 steps) a layer drops the
    share `removal` of its live weights, the smallest |w|, and regrows as many where the gradient of the last
    batch's loss is largest, at 0. `removal` falls by cosine from 0.5 to `removal_end`. Every layer keeps its
    count throughout. Groups (ours) go by the l2 norms of both, channels of several layers as one. `rescale`:
    start at the dense network's variance (ours; for networks without normalisation).
    Reconstructed: the end of the schedule (0.005) and that a layer moves no more weights than it has free places,
    so that a full one stands still. Left out: Flying Bird+, whose sparsity follows validation losses and so keeps
    no budget.
    """

    def __init__(
        self,
        *,
        granularity: str = "weight",
        removal: float = 0.5,
        removal_end: float = 0.005,
        every: int = 1,
        rescale: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            granularity=granularity, removal=removal, removal_end=removal_end, rescale=rescale, seed=seed
        )
        if every < 1:
            raise ValueError(f"every is {every}; it is the number of epochs between rewirings, 1 or more")
        self.every = every

    def rewire(self, progress: Progress) -> None:
        """Exchange groups within every unit, if it is time."""
        if progress.epoch % self.every:
            return
        dense = self.dense_values()
        heard = {name: moving.gradient for name, moving in self.moving.items()}
        gradients = {n: torch.zeros_like(dense[n]) if each is None else each for n, each in heard.items()}
        if not all(dense[n].isfinite().all() and gradients[n].isfinite().all() for n in gradients):
            return  # the loop reports it
        share = self.removal_at(progress)
        counts = {n: exchange_count(live, self.units[n].count, share) for n, live in self.live().items()}
        self.exchange(counts, counts, gradients)
