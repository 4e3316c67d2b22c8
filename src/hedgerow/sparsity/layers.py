"""Which weights of a model can be pruned, and how they are addressed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn
from torch.nn.utils import parametrize

from hedgerow.errors import ModelError

PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class PrunableWeight:
    """One weight tensor of the user's model: its full name, its module and the attribute that holds it."""

    name: str
    module: nn.Module
    attribute: str = "weight"

    @property
    def dense(self) -> nn.Parameter:
        """The stored parameter, under whatever parametrization is attached."""
        if parametrize.is_parametrized(self.module, self.attribute):
            owner = cast(nn.ModuleDict, self.module.parametrizations)
            return cast(nn.Parameter, owner[self.attribute].original)
        return cast(nn.Parameter, getattr(self.module, self.attribute))


def prunable_weights(model: nn.Module) -> dict[str, PrunableWeight]:
    """Return the weight of every convolution and linear layer by name, in the order of the model.

    First convolution, shortcuts and classifier are included; biases and normalisation never are
    (the set all published comparisons use). Raises `ModelError` when there is none, or when two layers
    share one tensor, which a mask per layer cannot describe.
    """
    found: dict[str, PrunableWeight] = {}
    owner: dict[int, str] = {}
    for name, module in model.named_modules():
        if not isinstance(module, PRUNABLE):
            continue
        weight = PrunableWeight(f"{name}.weight" if name else "weight", module)
        if id(weight.dense) in owner:
            raise ModelError(
                f"{weight.name} and {owner[id(weight.dense)]} share one tensor; give each layer its own weight "
                "before pruning"
            )
        owner[id(weight.dense)] = weight.name
        found[weight.name] = weight
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no prunable layer: no Conv1d, Conv2d, Conv3d or Linear was found in it"
        )
    return found
