"""HYDRA: learn which weights to keep under the robust objective (Sehwag et al., 2002.10509, eq. 1 and 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hedgerow.pruners.base import PRUNERS, Pruner, check_granularity
from hedgerow.seeds import derive
from hedgerow.sparsity import Budget, EffectiveWeight, Masks, Units, attach

_NORMALISATION = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


def fan_in(weight: Tensor) -> int:
    """Return the inputs of one output unit: C_in / groups * kh * kw, or in_features."""
    return weight[0].numel()


def score_scale(weight: Tensor) -> Tensor:
    """Return sqrt(6 / fan_in) / max|w|, a scalar (2002.10509, eq. 2); of an all-zero weight sqrt(6 / fan_in)."""
    largest = weight.abs().max()
    return math.sqrt(6.0 / fan_in(weight)) / torch.where(largest > 0, largest, torch.ones_like(largest))


def scaled_scores(weights: Mapping[str, Tensor], units: Units) -> dict[str, Tensor]:
    """Return sqrt(6 / fan_in) * w / max|w| (2002.10509, eq. 2): the order of |w|, so step 0 equals LWM.

    Weights whose channels are one thing are compared with each other, so they share one factor: the smallest of
    theirs. Only weights that have units get scores.
    """
    scores = {}
    for members in units.coupled():
        scale = torch.stack([score_scale(weights[name]) for name in members]).min()
        scores.update({name: weights[name] * scale for name in members})
    return scores


def random_scores(weight: Tensor, seed: int) -> Tensor:
    """Return U(-b, b) scores, b = 1 / sqrt(fan_in): the usual layer initialisation, the paper's baseline."""
    generator = torch.Generator(device=weight.device).manual_seed(seed)
    bound = 1.0 / math.sqrt(fan_in(weight))
    return torch.empty_like(weight).uniform_(-bound, bound, generator=generator)


class _StraightThrough(torch.autograd.Function):
    """w * m(s) forward; dL/ds = sign(s) * w * G and dL/dw = m * G backward, G the gradient of the product."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scores, mask)
        return torch.where(mask, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (gradient,) = gradients
        weight, scores, mask = ctx.saved_tensors
        to_weight = gradient * mask if ctx.needs_input_grad[0] else None
        to_scores = scores.sign() * weight * gradient if ctx.needs_input_grad[1] else None
        return to_weight, to_scores, None


def straight_through(weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """Return w * m with dL/ds = sign(s) * w * G, dense: removed entries receive gradient too (2002.10509)."""
    product: Tensor = _StraightThrough.apply(weight, scores, mask)  # type: ignore[no-untyped-call]
    return product


class Selection:
    """The groups that live by the scores of all weights: `keep` of every unit, those of largest l1 norm."""

    def __init__(self, units: Units, keep: Mapping[str, int]) -> None:
        self.units = units
        self.keep = dict(keep)
        self.scores: dict[str, Tensor] = {}

    def live(self, weight: str, keep: Mapping[str, int] | None = None) -> dict[str, Tensor]:
        """Return which groups on one weight the scores choose now, by unit; with other counts, if given."""
        keep = self.keep if keep is None else keep
        live = {}
        for unit in self.units.on(weight):
            magnitudes = {name: self.scores[name].detach().abs() for name in unit.weights}
            live[unit.name] = unit.select(unit.scores(magnitudes), keep[unit.name])
        return live

    def mask(self, weight: str) -> Tensor:
        """Return the boolean mask that the scores choose now for one weight."""
        return self.units.mask(self.live(weight), weight, self.scores[weight])


class ScoredWeight(EffectiveWeight):
    """The stored weight under the mask that its scores choose, gradients straight through to the scores."""

    def __init__(self, name: str, scores: Tensor, selection: Selection) -> None:
        super().__init__()
        self.name = name
        self.scores = nn.Parameter(scores)
        self.selection = selection
        self.passes_on = all(unit.passes_on(name) for unit in selection.units.on(name))
        selection.scores[name] = self.scores

    def mask(self) -> Tensor:
        """Return the boolean mask the scores choose now."""
        return self.selection.mask(self.name)

    def effective(self, dense: Tensor) -> Tensor:
        """Return w * m(s); w, where m makes no difference.

        A depthwise layer that is 0 for a channel, between layers that are too, would leave no gradient by which
        that channel could come back.
        """
        mask = torch.ones_like(dense, dtype=torch.bool) if self.passes_on else self.mask()
        return straight_through(dense, self.scores, mask)

    def sparse(self, dense: Tensor) -> Tensor:
        """Return w * m(s), without gradients."""
        return torch.where(self.mask(), dense, torch.zeros((), dtype=dense.dtype, device=dense.device))


@PRUNERS.register("hydra")
class Hydra(Pruner):
    """Learn importance scores by the robust loss while the weights stand still (HYDRA, 2002.10509).

    `init`: `scaled` (eq. 2; step 0 equals LWM) or `random`. `train_norm`: normalisation layers learn beside the
    scores, as in the authors' code. `score_decay`: weight decay on scores, 0 by default (their code: 1e-4).
    `granularity`: single weights as published, or groups (ours). Scores stay one per weight, trained in the same
    way; the groups whose scores have the largest l1 norm live, so step 0 equals magnitude pruning of the groups.
    Needs a pretrained network; fine-tune afterwards.
    """

    granularities: ClassVar[tuple[str, ...]] = ("weight", "filter", "channel", "kernel", "block", "n:m")

    def __init__(
        self,
        *,
        granularity: str = "weight",
        init: Literal["scaled", "random"] = "scaled",
        train_norm: bool = True,
        score_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.granularity = check_granularity(type(self), granularity)
        if init not in ("scaled", "random"):
            raise ValueError(f"init {init!r} is not known; allowed: scaled, random")
        self.init = init
        self.train_norm = train_norm
        self.score_decay = score_decay
        self.seed = seed

    def attach(self, model: nn.Module, budget: Budget, *, example: Tensor | None = None) -> None:
        """Freeze the model's parameters and give scores to every weight that is to be pruned."""
        super().attach(model, budget, example=example)
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        norm = [p for m in model.modules() if isinstance(m, _NORMALISATION) for p in m.parameters()]
        self.norm = [p for p in norm if p.requires_grad]
        model.requires_grad_(False)
        self.selection = self.make_selection()
        start = self._first_scores()
        pruned = [name for name in self.weights if name not in self.whole]
        self.scored = {name: self.scored_weight(name, start[name]) for name in pruned}
        for name, scored in self.scored.items():  # a mask may depend on the scores of several weights
            attach(self.weights[name], scored)
        if self.train_norm:
            for parameter in self.norm:
                parameter.requires_grad_(True)

    def _first_scores(self) -> dict[str, Tensor]:
        values = self.dense_values()
        if self.init == "scaled":
            return scaled_scores(values, self.units)
        return {name: random_scores(dense, derive(self.seed, "scores", name)) for name, dense in values.items()}

    def make_selection(self) -> Selection:
        """Return what chooses the groups that live, before any weight has scores."""
        return Selection(self.units, self.groups_to_keep())

    def scored_weight(self, name: str, scores: Tensor) -> ScoredWeight:
        """Return the parametrization that the weight `name` gets."""
        return ScoredWeight(name, scores, self.selection)

    def parameters(self) -> list[dict[str, Any]]:
        """Return the scores, and the normalisation's scale and shift if they learn too."""
        scores = [scored.scores for scored in self.scored.values()]
        groups: list[dict[str, Any]] = [{"params": scores, "weight_decay": self.score_decay}]
        return [*groups, {"params": self.norm}] if self.train_norm and self.norm else groups

    def finish(self) -> Masks:
        """Return the masks of the learned scores; the model is plain and trainable again."""
        masks = {
            name: self.scored[name].mask() if name in self.scored else torch.ones_like(dense, dtype=torch.bool)
            for name, dense in self.dense_values().items()
        }
        self.hand_over(masks)
        for parameter in self.trainable:
            parameter.requires_grad_(True)
        return masks
