"""The hybrid loss: clean and adversarial cross-entropy in one sum (DNR: Kundu et al., 2011.03083)."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.attacks.crafting import Mode
from hedgerow.objectives.awp import at_worst_weights
from hedgerow.objectives.base import OBJECTIVES, Scalars, accuracy
from hedgerow.objectives.pgd_at import PGDAdversarialTraining
from hedgerow.threat import ThreatModel


@OBJECTIVES.register("hybrid")
class Hybrid:
    """beta * CE(f(x), y) + (1 - beta) * CE(f(x_adv), y), x_adv by PGD: the loss of DNR (2011.03083).

    Published at 8/255: beta 0.5, 7 steps of 0.01, random start. `step_size` is in pixel units and stays 0.01 at
    every eps unless given. beta = 1 is natural training and crafts nothing; beta = 0 is PGD adversarial training.
    `label_smoothing` is for both terms; `awp` is the size of the adversarial weight perturbation, 0 for none.
    Batch norm: crafted in `craft_mode`, then one training forward on the clean batch and one on the adversarial.
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        beta: float = 0.5,
        steps: int = 7,
        step_size: Fraction | float | str = Fraction(1, 100),
        craft_mode: Mode = "eval",
        label_smoothing: float = 0.0,
        awp: float = 0.0,
    ) -> None:
        if not 0 <= beta <= 1:
            raise ValueError(f"beta is {beta}; it is the weight of the clean loss and lies in [0, 1]")
        self.beta = beta
        self.label_smoothing = label_smoothing
        self.awp = awp
        self.attack = PGDAdversarialTraining(
            threat,
            steps=steps,
            step_size=step_size,
            craft_mode=craft_mode,
            label_smoothing=label_smoothing,
            awp=awp,
        )

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the adversarial batch, `[N, ...]` in the ball and [0,1]."""
        return self.attack.craft(model, x, y, generator)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Scalars]:
        """Return the mean loss, its two terms (`natural`, `robust`), clean and adversarial training accuracy.

        A term of weight 0 is neither computed nor logged; without the clean one both accuracies are adversarial.
        """
        adversarial = self.craft(model, x, y, generator) if self.beta < 1 else None
        return at_worst_weights(model, lambda net: self._terms(net, x, adversarial, y), self.awp)

    def _terms(self, model: nn.Module, x: Tensor, adversarial: Tensor | None, y: Tensor) -> tuple[Tensor, Scalars]:
        weights = {"natural": (self.beta, x), "robust": (1.0 - self.beta, adversarial)}
        terms: list[Tensor] = []
        scalars: Scalars = {}
        for name, (weight, images) in weights.items():
            if not weight or images is None:
                continue
            logits = model(images)
            term = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
            terms.append(term if weight == 1 else weight * term)
            scalars[name] = term.detach()
            found = accuracy(logits, y)
            scalars.setdefault("train_accuracy", found)
            if images is adversarial:
                scalars["attacked_accuracy"] = found
        return torch.stack(terms).sum(), scalars
