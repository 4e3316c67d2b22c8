"""Adversarial training with PGD (Madry et al., 1706.06083, eq. 2.1)."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.attacks import ascend, crafting
from hedgerow.attacks.crafting import Mode
from hedgerow.objectives.base import OBJECTIVES, Scalars, accuracy
from hedgerow.threat import ThreatModel, parse_fraction


@OBJECTIVES.register("pgd-at")
class PGDAdversarialTraining:
    """Cross-entropy on PGD examples: the saddle point of Madry et al. (1706.06083).

    Starts are uniform in the ball. `step_size` is in pixel units, eps / 4 by default (2/255 at 8/255).
    Batch norm: the attack is crafted with the statistics of `craft_mode` (`eval`: running ones); the training
    forward sees the adversarial batch only. Cost: `steps` + 1 forwards, as many backwards.
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        steps: int = 10,
        step_size: Fraction | float | str | None = None,
        craft_mode: Mode = "eval",
    ) -> None:
        self.threat = threat
        self.steps = steps
        self.step_size = float(threat.eps / 4 if step_size is None else parse_fraction(step_size))
        self.craft_mode = craft_mode

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the adversarial batch, `[N, ...]` in the ball and [0,1]."""
        with crafting(model, self.craft_mode) as inner:
            return ascend(
                inner,
                x,
                threat=self.threat,
                start=self.threat.random_start(x, generator),
                loss=lambda logits, index: F.cross_entropy(logits, y[index], reduction="none"),
                steps=self.steps,
                step_size=self.step_size,
            )

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Scalars]:
        """Return the mean cross-entropy on adversarial images and the accuracy on them."""
        logits = model(self.craft(model, x, y, generator))
        return F.cross_entropy(logits, y), {"train_accuracy": accuracy(logits, y)}
