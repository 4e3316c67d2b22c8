"""TRADES: accuracy on clean images plus smoothness around them (Zhang et al., 1901.08573, eq. 5)."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.attacks import ascend, crafting
from hedgerow.attacks.crafting import Mode
from hedgerow.objectives.awp import at_worst_weights, check_gamma
from hedgerow.objectives.base import OBJECTIVES, Scalars, accuracy, check_smoothing
from hedgerow.team import drawn_like
from hedgerow.threat import ThreatModel, parse_fraction

_START_SPREAD = 0.001


def log_probabilities(logits: Tensor) -> Tensor:
    """Return the log-softmax of `[N, C]` logits, in float32 at least (half precision is widened)."""
    return F.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=1)


def kl_from_clean(clean_log: Tensor, logits: Tensor) -> Tensor:
    """Return KL(clean || perturbed) per example, `[N]`, from `[N, C]` clean log-probabilities and raw logits.

    Everything stays in log space and at least float32: no probability is clamped and no logarithm sees a zero.
    """
    return F.kl_div(log_probabilities(logits), clean_log, reduction="none", log_target=True).sum(1)


def nearby_start(x: Tensor, threat: ThreatModel, generator: torch.Generator | None) -> Tensor:
    """Return x + 0.001 * N(0, 1), cut to the ball and to [0,1]: a start off the point where the KL is flat."""
    noise = drawn_like(x, lambda t: t.normal_(generator=generator))
    return threat.project(x + _START_SPREAD * noise, x)


@OBJECTIVES.register("trades")
class Trades:
    """CE(f(x), y) + beta * KL(f(x) || f(x_adv)), x_adv maximising the KL (TRADES, 1901.08573).

    The attack starts at x + 0.001 * N(0, 1); `step_size` is in pixel units, eps / 4 by default. The clean logits
    that it attacks belong to fixed weights and are computed once: `steps` + 3 forwards in all. With beta = 0
    nothing is crafted and the loss is the cross-entropy. `label_smoothing` is for the cross-entropy alone; `awp`
    is the size of the adversarial weight perturbation, 0 for none. Batch norm: crafted in `craft_mode`, then one
    training forward on the clean batch and one on the adversarial batch.
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        beta: float = 6.0,
        steps: int = 10,
        step_size: Fraction | float | str | None = None,
        craft_mode: Mode = "eval",
        label_smoothing: float = 0.0,
        awp: float = 0.0,
    ) -> None:
        if beta < 0:
            raise ValueError(f"beta is {beta}; it weighs the robust term and must be 0 or more")
        check_smoothing(label_smoothing)
        check_gamma(awp)
        self.threat = threat
        self.beta = beta
        self.steps = steps
        self.step_size = float(threat.eps / 4 if step_size is None else parse_fraction(step_size))
        self.craft_mode = craft_mode
        self.label_smoothing = label_smoothing
        self.awp = awp

    def craft(self, model: nn.Module, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the adversarial batch, `[N, ...]` in the ball and [0,1]; labels play no part."""
        start = nearby_start(x, self.threat, generator)
        with crafting(model, self.craft_mode) as inner:
            with torch.no_grad():
                clean_log = log_probabilities(inner(x))
            return ascend(
                inner,
                x,
                threat=self.threat,
                start=start,
                loss=lambda logits, index: kl_from_clean(clean_log[index], logits),
                steps=self.steps,
                step_size=self.step_size,
            )

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Scalars]:
        """Return the mean loss, its two terms (`natural`, `robust`), clean and adversarial training accuracy."""
        adversarial = self.craft(model, x, generator) if self.beta else None
        return at_worst_weights(model, lambda net: self._terms(net, x, adversarial, y), self.awp)

    def _terms(self, model: nn.Module, x: Tensor, adversarial: Tensor | None, y: Tensor) -> tuple[Tensor, Scalars]:
        logits = model(x)
        natural = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        scalars = {"train_accuracy": accuracy(logits, y), "natural": natural.detach()}
        if adversarial is None:
            return natural, scalars
        clean_log = log_probabilities(logits)
        attacked = model(adversarial)
        robust = kl_from_clean(clean_log, attacked).mean()
        scalars.update(robust=robust.detach(), attacked_accuracy=accuracy(attacked, y))
        return natural + self.beta * robust, scalars
