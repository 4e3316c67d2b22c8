"""RVSM: sparse weights by relaxed variable splitting (Dinh & Xin, 1901.09731; robust training: 2003.00631)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from hedgerow.pruners.base import PRUNERS, check_granularity
from hedgerow.pruners.options import check_choice, check_positive, check_share
from hedgerow.pruners.splitting import Splitting, ThresholdForm
from hedgerow.sparsity.proximal import L0, L1, Regulariser, TransformedL1


@PRUNERS.register("rvsm")
class Rvsm(Splitting):
    """Train dense weights that are pulled towards their own thresholded copy (RVSM, 1901.09731, 2003.00631).

    Each step u = prox(w), then w <- w - lr * (grad L_rob(w) + beta * (w - u)); u is validated and handed over.
    `penalty` on u: `l0` (published; hard threshold sqrt(2 lambda1 / beta)), `l1` (soft threshold
    lambda1 / beta) or `transformed-l1` with `transform_a` (1). `beta`: published 0.01, 0.1, 0.5.
    `threshold`: `target` meets the budget: u is the map under that limit, so it keeps the largest weights, as
    many as the budget allows, by thresholds chosen anew every epoch (one for all layers with the distribution
    `global`), and `lambda1` only shrinks them, by no more than what the budget removes.
    `published`: one threshold for all layers from `lambda1` (1e-6); the sparsity is what comes of it, the budget
    asked for is not promised, and every layer keeps at least one weight.
    `ramp`: share of the phase in which the sparsity of u rises to the budget (ours; 0: the budget throughout).
    `granularity`: `weight` (published), `block` (as one weight whose size is the block's l2 norm), or n:m, where u
    keeps the n largest of every m in every step and `threshold` has to be `target`.
    The target form and `ramp` are not in the papers; there only convolutions were pruned, here every weight is.
    """

    granularities: ClassVar[tuple[str, ...]] = ("weight", "block", "n:m")
    without: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("channel", "filter", "kernel"), "rgsm is the same splitting on whole channels, filters and kernels"
    )

    def __init__(
        self,
        *,
        granularity: str = "weight",
        penalty: Literal["l0", "l1", "transformed-l1"] = "l0",
        lambda1: float = 1e-6,
        beta: float = 0.1,
        threshold: ThresholdForm = "target",
        ramp: float = 0.0,
        transform_a: float = 1.0,
    ) -> None:
        groups = check_granularity(type(self), granularity)
        check_choice("penalty", penalty, ("l0", "l1", "transformed-l1"))
        check_choice("threshold", threshold, ("target", "published"))
        check_positive(lambda1=lambda1, beta=beta, transform_a=transform_a)
        check_share(ramp=ramp)
        regularisers: dict[str, Regulariser] = {
            "l0": L0(),
            "l1": L1(),
            "transformed-l1": TransformedL1(transform_a),
        }
        super().__init__(
            groups,
            regularisers[penalty],
            lambda1=lambda1,
            beta=beta,
            threshold=threshold,
            ramp=ramp,
        )
