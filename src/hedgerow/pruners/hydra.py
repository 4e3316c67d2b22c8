"""HYDRA: learn which weights to keep under the robust objective (Sehwag et al., 2002.10509, eq. 1 and 2)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hedgerow.pruners.base import PRUNERS, Pruner, check_granularity
from hedgerow.seeds import derive
from hedgerow.sparsity import Budget, EffectiveWeight, Masks, attach, topk_mask

_NORMALISATION = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


def fan_in(weight: Tensor) -> int:
    """Return the inputs of one output unit: C_in / groups * kh * kw, or in_features."""
    return weight[0].numel()


def scaled_scores(weight: Tensor) -> Tensor:
    """Return sqrt(6 / fan_in) * w / max|w| (2002.10509, eq. 2): the order of |w|, so step 0 equals LWM.

    An all-zero weight gets zero scores rather than NaN.
    """
    largest = weight.abs().max()
    scale = math.sqrt(6.0 / fan_in(weight)) / torch.where(largest > 0, largest, torch.ones_like(largest))
    return weight * scale


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


class ScoredWeight(EffectiveWeight):
    """The stored weight under the mask of its `keep` largest |scores|, gradients straight through to scores."""

    def __init__(self, scores: Tensor, keep: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)
        self.keep = keep

    def mask(self) -> Tensor:
        """Return the boolean mask the scores choose now."""
        return topk_mask(self.scores.detach().abs(), self.keep)

    def effective(self, dense: Tensor) -> Tensor:
        """Return w * m(s)."""
        return straight_through(dense, self.scores, self.mask())


@PRUNERS.register("hydra")
class Hydra(Pruner):
    """Learn importance scores by the robust loss while the weights stand still (HYDRA, 2002.10509).

    `init`: `scaled` (eq. 2; step 0 equals LWM) or `random`. `train_norm`: normalisation layers learn beside the
    scores, as in the authors' code. `score_decay`: weight decay on scores, 0 by default (their code: 1e-4).
    Needs a pretrained network; fine-tune afterwards.
    """

    granularities: ClassVar[tuple[str, ...]] = ("weight",)

    def __init__(
        self,
        *,
        granularity: str = "weight",
        init: Literal["scaled", "random"] = "scaled",
        train_norm: bool = True,
        score_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        check_granularity(type(self), granularity)
        if init not in ("scaled", "random"):
            raise ValueError(f"init {init!r} is not known; allowed: scaled, random")
        self.init = init
        self.train_norm = train_norm
        self.score_decay = score_decay
        self.seed = seed

    def attach(self, model: nn.Module, budget: Budget) -> None:
        """Freeze the model's parameters and give every prunable weight scores."""
        super().attach(model, budget)
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        norm = [p for m in model.modules() if isinstance(m, _NORMALISATION) for p in m.parameters()]
        self.norm = [p for p in norm if p.requires_grad]
        model.requires_grad_(False)
        keep = self.groups_to_keep()
        self.scored: dict[str, ScoredWeight] = {}
        for name, weight in self.weights.items():
            dense = weight.dense.detach()
            start = (
                scaled_scores(dense)
                if self.init == "scaled"
                else random_scores(dense, derive(self.seed, "scores", name))
            )
            self.scored[name] = self.scored_weight(name, start, keep[name])
            attach(weight, self.scored[name])
        if self.train_norm:
            for parameter in self.norm:
                parameter.requires_grad_(True)

    def scored_weight(self, name: str, scores: Tensor, keep: int) -> ScoredWeight:
        """Return the parametrization that the weight `name` gets."""
        return ScoredWeight(scores, keep)

    def parameters(self) -> list[dict[str, Any]]:
        """Return the scores, and the normalisation's scale and shift if they learn too."""
        scores = [scored.scores for scored in self.scored.values()]
        groups: list[dict[str, Any]] = [{"params": scores, "weight_decay": self.score_decay}]
        return [*groups, {"params": self.norm}] if self.train_norm and self.norm else groups

    def finish(self) -> Masks:
        """Return the masks of the learned scores; the model is plain and trainable again."""
        masks = self.hand_over({name: scored.mask() for name, scored in self.scored.items()})
        for parameter in self.trainable:
            parameter.requires_grad_(True)
        return masks
