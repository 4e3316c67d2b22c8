"""LWM: remove the weights of least magnitude (Sehwag et al., 1906.06110, section 3)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from hedgerow.pruners.base import PRUNERS, Pruner, check_granularity
from hedgerow.sparsity import Budget, Masks


@PRUNERS.register("magnitude")
class Magnitude(Pruner):
    """Least weight magnitude, one shot after pretraining (LWM, 1906.06110); fine-tune afterwards.

    The criterion knows nothing of the objective; pretraining and fine-tuning must share the robust one. Groups go
    by their l1 norm; image channels (`channel`) and the rows of classes (`filter`) stay whole.
    """

    granularities: ClassVar[tuple[str, ...]] = ("weight", "filter", "channel", "kernel", "block", "n:m")
    learns: ClassVar[bool] = False

    def __init__(self, *, granularity: str = "weight") -> None:
        self.granularity = check_granularity(type(self), granularity)

    def attach(self, model: nn.Module, budget: Budget, *, example: Tensor | None = None) -> None:
        """Take hold of the model and settle how many groups each unit keeps."""
        super().attach(model, budget, example=example)
        self.keep = self.groups_to_keep()

    def finish(self) -> Masks:
        """Return the mask of the groups of largest l1 norm, |w| for single weights."""
        magnitudes = {name: dense.abs() for name, dense in self.dense_values().items()}
        live = self.units.select(self.units.scores(magnitudes), self.keep)
        return self.hand_over(self.units.masks(live, magnitudes))
