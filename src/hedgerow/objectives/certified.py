"""What objectives with bounds share: how eps grows, the network as bounds see it, the loss of the worst case."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.attacks import bare
from hedgerow.bounds import Network, Region, Traces, Walk, ball, batch_statistics, stability_loss, verified
from hedgerow.objectives.base import Scalars, accuracy
from hedgerow.threat import ThreatModel
from hedgerow.tracing import Node

Shape = Literal["smooth", "linear"]
Statistics = Literal["batch", "running"]
Margins = Callable[[Network, Region, Tensor], tuple[Tensor, Walk]]
"""`(network, images, rows [N, C, C]) -> lower bounds [N, C]` of the functions `rows` of the logits, their walk."""
Loss = Callable[[Tensor, Walk, Tensor, Tensor], Tensor]
"""`(those lower bounds, their walk, rows, y [N]) -> a bound of the mean cross-entropy from above`."""
_SLOW = 0.25  # share of a smooth ramp that is curved


@dataclass(frozen=True)
class Ramp:
    """From 0 to 1 in the course of a phase: 0 for the share `warmup`, then rising for the share `ramp`.

    `linear` rises at one rate; `smooth` with the fourth power of time for the first quarter of the ramp and
    linearly from there on, without a kink (the smoothed schedule of 1906.06316, whose exact form is a choice made
    here). With `ramp` 0 it is 1 from `warmup` on. Raises `ValueError` for shares outside [0, 1] or above 1 in all.
    """

    warmup: float = 0.0
    ramp: float = 0.5
    shape: Shape = "smooth"

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ValueError(f"ramp_shape {self.shape!r} is not known; allowed: {', '.join(get_args(Shape))}")
        for name in ("warmup", "ramp"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it is a share of the phase and lies in [0, 1]")
        if self.warmup + self.ramp > 1:
            raise ValueError(
                f"warmup {self.warmup} and ramp {self.ramp} are shares of the phase and sum to more than all of it"
            )

    def __call__(self, done: float) -> float:
        """Return the height, in [0, 1], when the share `done` of the phase is over."""
        if done >= self.warmup + self.ramp:
            return 1.0
        if done <= self.warmup:
            return 0.0
        at = (done - self.warmup) / self.ramp
        if self.shape == "linear":
            return at
        top = 1 / (_SLOW**4 + 4 * _SLOW**3 * (1 - _SLOW))
        return top * (at**4 if at < _SLOW else _SLOW**4 + 4 * _SLOW**3 * (at - _SLOW))


def check_weight(name: str, value: float, most: float = 1.0) -> None:
    """Raise `ValueError` unless a weight lies in [0, most]."""
    if not 0 <= value <= most or value == math.inf:
        limits = "0 or more" if most == math.inf else f"in [0, {most:g}]"
        raise ValueError(f"{name} is {value}; it is a weight and must be {limits}")


class Bounding:
    """Makes networks ready for bounds, and remembers their graphs; a network is traced when it is first seen."""

    def __init__(self, statistics: Statistics) -> None:
        if statistics not in get_args(Statistics):
            raise ValueError(
                f"statistics {statistics!r} are not known; allowed: {', '.join(get_args(Statistics))}"
            )
        self.statistics = statistics
        self.traces = Traces()

    def forward(self, model: nn.Module, x: Tensor) -> tuple[Tensor, Network]:
        """Return the logits of the clean batch, which update running statistics, and the network for bounds.

        The network is in the format of its weights whatever autocast says. Raises `ModelError` for a stochastic
        network and for operations without bounds.
        """
        inner = bare(model)
        graph = self.traces.of(inner, x)
        statistics: dict[Node, tuple[Tensor, Tensor]] = {}
        if self.statistics == "batch":
            with batch_statistics(graph, inner) as statistics:
                logits = model(x)
        else:
            logits = model(x)
        with torch.autocast(x.device.type, enabled=False):
            return logits, Network(graph, inner, statistics=statistics)


@dataclass(frozen=True)
class WorstCase:
    """Of a batch: the cross-entropy of the worst logits that bounds allow, and the share of images verified.

    `stability` is the stability loss of its ReLUs, None unless it was asked for.
    """

    loss: Tensor
    verified: Tensor
    stability: Tensor | None


def worst_logits(least: Tensor, walk: Walk, rows: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy of the worst logits: `-margin_j` for class j and 0 for class y.

    No image that the attacker may make has a larger loss (1810.12715, eq. 12; 1906.06316, eq. 13).
    """
    return F.cross_entropy(-least, y)


@dataclass(frozen=True)
class Judge:
    """How margins are bounded, and the loss that is made of those bounds."""

    margins: Margins
    loss: Loss = worst_logits


def worst_case(
    network: Network, judge: Judge, x: Tensor, y: Tensor, threat: ThreatModel, *, stability: bool = False
) -> WorstCase:
    """Return the worst case of a batch, and, with `stability`, the stability loss of the bounds of its ReLUs."""
    with torch.autocast(x.device.type, enabled=False):
        region = ball(x.detach(), threat).to(network.like.dtype)
        unit = torch.eye(network.output.shape[-1], dtype=network.like.dtype, device=x.device)
        rows = unit[y].unsqueeze(1) - unit
        found, walk = judge.margins(network, region, rows)
        share = verified(found.detach(), y).float().mean()
        return WorstCase(judge.loss(found, walk, rows, y), share, stability_loss(walk) if stability else None)


def certified_loss(
    bounding: Bounding,
    judge: Judge,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    height: float,
    kappa: float,
    stability: float = 0.0,
) -> tuple[Tensor, Scalars]:
    """Return (1 - w) * worst case + w * clean cross-entropy, at eps * `height`, and what to log.

    w falls from 1 to `kappa` while `height` rises from 0 to 1. `stability` times the stability loss of the
    ReLUs is added. A term of weight 0 has no part; without an attacker both terms are the same, no bounds are
    computed, and nothing is added.
    """
    weight = 1 - (1 - kappa) * height
    attacker = threat.with_eps(height * float(threat.eps))
    if not attacker.eps:
        logits = model(x)
        natural, found = F.cross_entropy(logits, y), accuracy(logits, y)
        same = {"natural": natural.detach(), "robust": natural.detach(), "verified_accuracy": found}
        nothing = natural.new_zeros(()).detach()
        more = {"stability": nothing} if stability else {}
        return natural, {"train_accuracy": found, **same, "eps": nothing, **more}
    logits, network = bounding.forward(model, x)
    natural = F.cross_entropy(logits, y)
    worst = worst_case(network, judge, x, y, attacker, stability=stability > 0)
    robust = worst.loss
    total = (1 - weight) * robust + weight * natural if weight else robust
    scalars = {
        "train_accuracy": accuracy(logits, y),
        "natural": natural.detach(),
        "robust": robust.detach(),
        "verified_accuracy": worst.verified,
        "eps": torch.full_like(robust.detach(), float(attacker.eps)),
    }
    if worst.stability is None:
        return total, scalars
    added = stability * worst.stability
    return total + added, {**scalars, "stability": added.detach()}
