"""Free adversarial training: one backward for weights and images (Shafahi et al., 1904.12843, algorithm 1)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.objectives.base import OBJECTIVES, Scalars, accuracy
from hedgerow.threat import ThreatModel, parse_fraction


@OBJECTIVES.register("free-at")
class FreeAdversarialTraining:
    """Cross-entropy on x + delta, delta moved by the backward that trains the weights (Free-AT, 1904.12843).

    Every batch is trained on `replays` times (the paper's m, 4), an optimiser step each time: divide the epochs by
    it. delta belongs to a place in the batch and persists from replay to replay and from batch to batch; it is
    state and comes back with a checkpoint. The backward of the loss moves it by `step_size` (eps; pixel units)
    along the gradient's sign and cuts it back to the ball. x + delta is cut to [0,1] on the way into the network.
    Batch norm: one training forward, on the adversarial batch.
    """

    def __init__(
        self, threat: ThreatModel, *, replays: int = 4, step_size: Fraction | float | str | None = None
    ) -> None:
        if replays < 1:
            raise ValueError(f"replays is {replays}; it is how often every batch is trained on, 1 or more")
        self.step_size = float(threat.eps if step_size is None else parse_fraction(step_size))
        if self.step_size < 0:
            raise ValueError(f"step_size is {step_size}; it is a distance in pixel units and must be 0 or more")
        self.threat = threat
        self.replays = replays
        self.delta: Tensor | None = None

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Scalars]:
        """Return the mean cross-entropy on x + delta and the accuracy on it; its backward moves delta."""
        delta = self._delta_for(x).clone()
        if torch.is_grad_enabled():
            start = delta.detach()  # the hook must not hold the tensor that holds the hook
            delta.requires_grad_().register_hook(lambda gradient: self._ascend(start, gradient))  # type: ignore[no-untyped-call]
        logits = model((x + delta).clamp(0.0, 1.0))
        found = accuracy(logits, y)
        return F.cross_entropy(logits, y), {"train_accuracy": found, "attacked_accuracy": found}

    def state_dict(self) -> dict[str, Any]:
        """Return delta; None before the first batch."""
        return {"delta": self.delta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.delta = state["delta"]

    def _delta_for(self, x: Tensor) -> Tensor:
        """Return the perturbations of the first `len(x)` places; those never seen, or of other shapes, are 0."""
        known = x[:0] if self.delta is None or self.delta.shape[1:] != x.shape[1:] else self.delta.to(x)
        if len(known) < len(x):
            known = torch.cat([known, torch.zeros_like(x[len(known) :])])
        self.delta = known
        return known[: len(x)]

    @torch.no_grad()
    def _ascend(self, delta: Tensor, gradient: Tensor) -> None:
        moved = self.threat.shorten(delta + self.step_size * self.threat.steepest(gradient))
        self.delta = moved if self.delta is None else torch.cat([moved, self.delta[len(moved) :]])
