"""What makes crafting cheaper during a phase and changes it by rounding alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from hedgerow.attacks import folding, sparse_crafting
from hedgerow.attacks.standin import WORTHWHILE
from hedgerow.data import AnySplit
from hedgerow.objectives import Objective
from hedgerow.sparsity import Budget
from hedgerow.training.plan import Plan
from hedgerow.training.setting import Setting


@contextmanager
def cheaper_crafting(
    model: nn.Module, split: AnySplit, objective: Objective, budget: Budget, plan: Plan, *, setting: Setting
) -> Iterator[None]:
    """Fold batch norm into convolutions inside, and craft on the non-zeros where few are left and work is ahead.

    A compiled network is not folded: there batch norm costs no pass of its own, and new layers in every step
    would be compiled anew.
    """
    first = split.pixels(slice(0, 1))
    to_come = len(split) * plan.epochs * int(getattr(objective, "steps", 0))
    if setting.sparse_crafting == "on":
        to_come = 2**62
    with ExitStack() as stack:
        if not setting.compile:
            stack.enter_context(folding(model, first))
        if setting.sparse_crafting != "off" and 1 - budget.sparsity <= WORTHWHILE:
            stack.enter_context(sparse_crafting(model, first, to_come=to_come))
        yield
