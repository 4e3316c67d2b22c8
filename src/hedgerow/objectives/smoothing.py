"""Training for randomized smoothing: right answers under Gaussian noise (1902.02918, 2002.10509)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.objectives.base import OBJECTIVES, Scalars, accuracy
from hedgerow.objectives.trades import kl_from_clean, log_probabilities
from hedgerow.team import drawn_like

Form = Literal["stability", "gaussian"]
_BETA = 6.0


@OBJECTIVES.register("smoothing")
class RandomizedSmoothing:
    """Gaussian augmentation, or stability training, for a classifier that will be smoothed and certified in l2.

    With e ~ N(0, sigma^2 I), fresh in every step and for each of `draws` noisy copies of an image:
    `gaussian` is CE(f(x + e), y) (Cohen et al., 1902.02918, section 3.3);
    `stability` is CE(f(x), y) + beta * KL(f(x) || f(x + e)), as in HYDRA (2002.10509; there beta 6, sigma 0.25).
    `sigma` is in pixel units. x + e is NOT cut to [0,1]: the certificate is about the network under exactly this
    noise, and clipping would train it for another one. There is no attacker, hence no threat model: what can be
    certified is l2, and a recipe's `threat` stays that of the empirical attacks. With beta or sigma 0 nothing is
    drawn and the loss is the cross-entropy on clean images. Batch norm: all noisy copies of a batch go through one
    training forward; `stability` has another one, on the clean batch, before it.
    """

    def __init__(
        self, *, form: Form = "stability", sigma: float = 0.25, beta: float | None = None, draws: int = 1
    ) -> None:
        if form not in ("stability", "gaussian"):
            raise ValueError(f"form {form!r} is not known; allowed: stability, gaussian")
        if not 0 <= sigma < math.inf:
            raise ValueError(f"sigma is {sigma}; it is the spread of the noise in pixel units, 0 or more")
        if form == "gaussian" and beta is not None:
            raise ValueError(f"beta is {beta}, and the form gaussian has no second term to weigh; leave beta out")
        if beta is not None and not 0 <= beta < math.inf:
            raise ValueError(f"beta is {beta}; it weighs the robust term and must be 0 or more")
        if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
            raise ValueError(f"draws is {draws!r}; it counts the noisy copies of an image and must be 1 or more")
        self.form = form
        self.sigma = sigma
        self.beta = _BETA if beta is None else beta
        self.draws = draws

    def noisy(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return `draws` noisy copies of the batch, `[draws * N, ...]`, one whole batch after another."""
        copies = torch.cat([x] * self.draws)
        noise = drawn_like(copies, lambda t: t.normal_(generator=generator))
        return copies + self.sigma * noise

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Scalars]:
        """Return the mean loss and the training accuracy: on noisy images for `gaussian`, else on clean ones.

        `stability` names its two terms too, `natural` and `robust`.
        """
        if self.form == "gaussian" and self.sigma:
            logits, labels = model(self.noisy(x, generator)), y.repeat(self.draws)
            return F.cross_entropy(logits, labels), {"train_accuracy": accuracy(logits, labels)}
        logits = model(x)
        natural = F.cross_entropy(logits, y)
        scalars = {"train_accuracy": accuracy(logits, y)}
        if self.form == "gaussian":
            return natural, scalars
        scalars["natural"] = natural.detach()
        if not (self.beta and self.sigma):
            return natural, scalars
        clean_log = log_probabilities(logits).repeat(self.draws, 1)
        robust = kl_from_clean(clean_log, model(self.noisy(x, generator))).mean()
        return natural + self.beta * robust, {**scalars, "robust": robust.detach()}
