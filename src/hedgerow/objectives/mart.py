"""MART: adversarial training that weighs misclassified images (Wang et al., ICLR 2020, section 3)."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.attacks import ascend, crafting
from hedgerow.attacks.crafting import Mode
from hedgerow.objectives.awp import at_worst_weights, check_gamma
from hedgerow.objectives.base import OBJECTIVES, Scalars, accuracy
from hedgerow.objectives.trades import kl_from_clean, log_probabilities, nearby_start
from hedgerow.threat import ThreatModel, parse_fraction


def boosted_cross_entropy(log_probs: Tensor, y: Tensor) -> Tensor:
    """Return -log p_y - log(1 - max_{k != y} p_k) per example, `[N]`, from `[N, C]` log-probabilities.

    log(1 - p_k) is the logarithm of the sum of all other probabilities, so nothing is clamped: where the network
    is sure of a wrong class the loss is large and finite.
    """
    true = F.one_hot(y, log_probs.shape[1]).bool()
    rival = log_probs.detach().masked_fill(true, -torch.inf).argmax(1)
    others = log_probs.masked_fill(F.one_hot(rival, log_probs.shape[1]).bool(), -torch.inf)
    return -log_probs.gather(1, y[:, None]).squeeze(1) - others.logsumexp(1)


@OBJECTIVES.register("mart")
class Mart:
    """BCE(f(x_adv), y) + beta * KL(f(x) || f(x_adv)) * (1 - p_y(x)), x_adv by PGD on CE (MART, ICLR 2020).

    BCE is the boosted cross-entropy; the factor 1 - p_y gives weight to images that are misclassified clean, and
    gradients pass it too. beta 5 as published. The attack starts at x + 0.001 * N(0, 1), as the authors' does;
    `step_size` is in pixel units, eps / 4 by default. `awp`: adversarial weight perturbation, 0 is none.
    Batch norm: crafted in `craft_mode`, then one training forward on the clean batch and one on the adversarial;
    with beta = 0 only the latter.
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        beta: float = 5.0,
        steps: int = 10,
        step_size: Fraction | float | str | None = None,
        craft_mode: Mode = "eval",
        awp: float = 0.0,
    ) -> None:
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta is {beta}; it weighs the term of misclassified images and must be 0 or more")
        check_gamma(awp)
        self.threat = threat
        self.beta = beta
        self.steps = steps
        self.step_size = float(threat.eps / 4 if step_size is None else parse_fraction(step_size))
        self.craft_mode = craft_mode
        self.awp = awp

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the adversarial batch, `[N, ...]` in the ball and [0,1]."""
        with crafting(model, self.craft_mode) as inner:
            return ascend(
                inner,
                x,
                threat=self.threat,
                start=nearby_start(x, self.threat, generator),
                loss=lambda logits, index: F.cross_entropy(logits, y[index], reduction="none"),
                steps=self.steps,
                step_size=self.step_size,
            )

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Scalars]:
        """Return the mean loss, its terms (`boosted`; `robust`, unless beta is 0), accuracies on adversarial x."""
        adversarial = self.craft(model, x, y, generator)
        return at_worst_weights(model, lambda net: self._terms(net, x, adversarial, y), self.awp)

    def _terms(self, model: nn.Module, x: Tensor, adversarial: Tensor, y: Tensor) -> tuple[Tensor, Scalars]:
        clean_log = log_probabilities(model(x)) if self.beta else None
        logits = model(adversarial)
        boosted = boosted_cross_entropy(log_probabilities(logits), y).mean()
        found = accuracy(logits, y)
        scalars = {"train_accuracy": found, "attacked_accuracy": found, "boosted": boosted.detach()}
        if clean_log is None:
            return boosted, scalars
        missing = -torch.expm1(clean_log.gather(1, y[:, None]).squeeze(1))
        robust = (kl_from_clean(clean_log, logits) * missing).mean()
        return boosted + self.beta * robust, {**scalars, "robust": robust.detach()}
