"""Fast adversarial training: one attack step from a random start (Wong et al., 2001.03994, algorithm 3)."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn

from hedgerow.attacks.crafting import Mode
from hedgerow.objectives.base import OBJECTIVES, Scalars
from hedgerow.objectives.pgd_at import PGDAdversarialTraining
from hedgerow.threat import ThreatModel, parse_fraction


@OBJECTIVES.register("fast-at")
class FastAdversarialTraining:
    """Cross-entropy on FGSM examples from a uniform start, step 1.25 eps, projected (Fast-AT, 2001.03994).

    Two forwards a step in place of PGD's eleven, and a risk: from one step to the next the network may learn to
    answer these examples and no others (catastrophic overfitting); the training loop raises an alarm when it does.
    `step_size` is in pixel units. Otherwise `pgd-at` with one step: the authors craft with the batch's own
    statistics (`craft_mode: train`), the default here is `eval`.
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        step_size: Fraction | float | str | None = None,
        craft_mode: Mode = "eval",
        label_smoothing: float = 0.0,
        awp: float = 0.0,
    ) -> None:
        self.step_size = float(threat.eps * Fraction(5, 4) if step_size is None else parse_fraction(step_size))
        if self.step_size < 0:
            raise ValueError(f"step_size is {step_size}; it is a distance in pixel units and must be 0 or more")
        self.attack = PGDAdversarialTraining(
            threat,
            steps=1,
            step_size=self.step_size,
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
        """Return the mean cross-entropy on adversarial images and the accuracy on them."""
        return self.attack(model, x, y, generator)
