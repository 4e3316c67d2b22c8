"""Adversarial training with PGD (Madry et al., 1706.06083, eq. 2.1)."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.attacks import ascend, crafting
from hedgerow.attacks.crafting import Mode
from hedgerow.objectives.awp import at_worst_weights, check_gamma
from hedgerow.objectives.base import OBJECTIVES, Scalars, accuracy, check_smoothing
from hedgerow.threat import ThreatModel, parse_fraction


@OBJECTIVES.register("pgd-at")
class PGDAdversarialTraining:
    """Cross-entropy on PGD examples: the saddle point of Madry et al. (1706.06083).

    Starts are uniform in the ball. `step_size` is in pixel units, eps / 4 by default (2/255 at 8/255).
    `label_smoothing` is for the training loss; the attack ascends the cross-entropy of the true label. `awp`: size
    of the adversarial weight perturbation, 0 for none; it costs one forward and one backward more.
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
        label_smoothing: float = 0.0,
        awp: float = 0.0,
    ) -> None:
        check_smoothing(label_smoothing)
        check_gamma(awp)
        self.threat = threat
        self.steps = steps
        self.step_size = float(threat.eps / 4 if step_size is None else parse_fraction(step_size))
        self.craft_mode = craft_mode
        self.label_smoothing = label_smoothing
        self.awp = awp

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
        adversarial = self.craft(model, x, y, generator)
        return at_worst_weights(model, lambda net: self._terms(net, adversarial, y), self.awp)

    def _terms(self, model: nn.Module, adversarial: Tensor, y: Tensor) -> tuple[Tensor, Scalars]:
        logits = model(adversarial)
        found = accuracy(logits, y)
        scalars = {"train_accuracy": found, "attacked_accuracy": found}
        return F.cross_entropy(logits, y, label_smoothing=self.label_smoothing), scalars
