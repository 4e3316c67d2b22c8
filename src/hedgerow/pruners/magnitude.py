"""LWM: remove the weights of least magnitude (Sehwag et al., 1906.06110, section 3)."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from hedgerow.pruners.base import PRUNERS, Pruner, check_granularity, whole_weights
from hedgerow.sparsity import GRANULARITIES, Budget, Masks


@PRUNERS.register("magnitude")
class Magnitude(Pruner):
    """Least weight magnitude, one shot after pretraining (LWM, 1906.06110); fine-tune afterwards.

    The criterion knows nothing of the objective; pretraining and fine-tuning must share the robust one. Groups go
    by their l1 norm; image channels (`channel`) and the rows of classes (`filter`) stay whole.
    """

    granularities: ClassVar[tuple[str, ...]] = ("weight", "filter", "channel", "kernel")
    learns: ClassVar[bool] = False

    def __init__(self, *, granularity: str = "weight") -> None:
        check_granularity(type(self), granularity)
        self.granularity = GRANULARITIES[granularity]

    def attach(self, model: nn.Module, budget: Budget) -> None:
        """Take hold of the model and settle how many groups each layer keeps."""
        super().attach(model, budget)
        self.whole = whole_weights(self.weights, self.granularity)
        self.keep = self.groups_to_keep()

    def finish(self) -> Masks:
        """Return the mask of the largest |w| (l1 norm per group) of every layer."""
        magnitudes = {name: weight.dense.detach().abs() for name, weight in self.weights.items()}
        return self.hand_over({n: self.granularity.mask(m, self.keep[n]) for n, m in magnitudes.items()})
