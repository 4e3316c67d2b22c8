"""Which weights of a model can be pruned, and how they are addressed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from hedgerow.errors import ModelError

PRUNABLE: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.Conv1d, ("weight",)),
    (nn.Conv2d, ("weight",)),
    (nn.Conv3d, ("weight",)),
    (nn.Linear, ("weight",)),
    (nn.MultiheadAttention, ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")),
)
"""Kinds of layers and their attributes that may hold a prunable weight, in the order in which torch stores them.

The output projection of `nn.MultiheadAttention` is a linear layer of its own. Everything else stays dense: biases,
normalisation, embeddings, position and class tokens, recurrent and bilinear layers, and transposed convolutions,
whose filters and channels lie on other axes.
"""
KINDS = "Conv1d, Conv2d, Conv3d, Linear or MultiheadAttention"


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


def held_attributes(module: nn.Module) -> list[str]:
    """Return the attributes of one module that hold a prunable weight, in the order in which torch stores them."""
    known = next((attributes for kind, attributes in PRUNABLE if isinstance(module, kind)), ())
    return [a for a in known if parametrize.is_parametrized(module, a) or getattr(module, a, None) is not None]


def found_weights(model: nn.Module) -> Iterator[PrunableWeight]:
    """Yield what there is to prune in the order of the model, unchecked: a weight may have no shape yet."""
    for path, module in model.named_modules():
        for attribute in held_attributes(module):
            yield PrunableWeight(f"{path}.{attribute}" if path else attribute, module, attribute)


def prunable_weights(model: nn.Module) -> dict[str, PrunableWeight]:
    """Return the weight of every convolution, linear layer and attention projection by name, in the model's order.

    First convolution, shortcuts and classifier are included; biases and normalisation never are (the set all
    published comparisons use). A module that is used in several places counts once. Raises `ModelError` when
    there is nothing to prune, and for what a mask cannot describe: a tensor that several layers hold, a weight
    without a shape yet, and one that a hook or a parametrization computes from other tensors.
    """
    found = {weight.name: weight for weight in found_weights(model)}
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no prunable layer: no {KINDS} was found in it (biases, normalisation, "
            "embeddings, transposed convolutions and recurrent layers always stay dense)"
        )
    for weight in found.values():
        _check_stored(weight)
    holders = _holders(model)
    for weight in found.values():
        others = [name for name in holders[_place(weight.dense)] if name != weight.name]
        if others:
            raise ModelError(
                f"{others[0]} and {weight.name} share one tensor; give each layer its own weight before pruning"
            )
    return found


def _check_stored(weight: PrunableWeight) -> None:
    """Raise `ModelError` unless the layer stores its weight as one parameter that has a shape."""
    if parametrize.is_parametrized(weight.module, weight.attribute):
        steps = list(cast(nn.ModuleDict, weight.module.parametrizations)[weight.attribute].children())
        # Only an EffectiveWeight, which stands below this file, has that method.
        if not all(hasattr(step, "effective") for step in steps):
            raise ModelError(
                f"{weight.name} is parametrized by {', '.join(type(step).__name__ for step in steps)}, so no mask "
                "fits it; remove that by torch.nn.utils.parametrize.remove_parametrizations before pruning"
            )
    elif weight.attribute not in weight.module._parameters:
        raise ModelError(
            f"{weight.name} is no parameter: something computes it anew for every forward pass, such as "
            "weight_norm, spectral_norm or torch.nn.utils.prune; remove that before pruning"
        )
    if is_lazy(weight.dense):
        raise ModelError(
            f"{weight.name} has no shape yet: {type(weight.module).__name__} takes it from the first batch; run "
            "one forward pass before pruning"
        )


def _place(parameter: nn.Parameter) -> tuple[str, int]:
    """Return where a parameter's numbers begin; two parameters over the same numbers have the same place."""
    pointer = 0 if is_lazy(parameter) else parameter.data_ptr()
    return ("memory", pointer) if pointer else ("object", id(parameter))


def _holders(model: nn.Module) -> dict[tuple[str, int], list[str]]:
    """Return the names of all parameters by place; a stored weight goes by its plain name."""
    holders: dict[tuple[str, int], list[str]] = {}
    for path, module in model.named_modules():
        for attribute, parameter in module._parameters.items():
            if parameter is None:
                continue
            name = f"{path}.{attribute}" if path else attribute
            if isinstance(module, parametrize.ParametrizationList):
                name = f".{path}".replace(".parametrizations.", ".").removeprefix(".")
            holders.setdefault(_place(parameter), []).append(name)
    return holders
