"""Remove the channels whose ReLUs are least decided, by bounds (NRSLoss: Li et al., 2206.07311)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from hedgerow.bounds import neuron_instability
from hedgerow.errors import ModelError
from hedgerow.pruners.base import PRUNERS, Pruner, check_granularity
from hedgerow.sparsity import (
    Budget,
    Masks,
    PrunableWeight,
    Units,
    coupled_units,
    group_classes,
    prunable_weights,
    traced_channels,
)
from hedgerow.threat import ThreatModel
from hedgerow.tracing import Channels, Node


def class_losses(losses: Mapping[Node, Tensor], channels: Channels) -> Tensor:
    """Return the mean stability loss of every channel class, float64 `[count]` on the CPU; NaN without a ReLU.

    `losses` are those of neurons by the ReLU that they enter, of its shape without the batch axis. Every ReLU that
    a class enters counts alike (on a residual stream there are several).
    """
    none = torch.zeros(channels.count, dtype=torch.float64)
    sums, relus = none.clone(), none.clone()
    for node, found in losses.items():
        if node.name in channels.nodes:
            axis, ids = channels.nodes[node.name]
            by_index = found.double().cpu().movedim(axis - 1, 0).reshape(len(ids), -1).mean(1)
            times = none.index_add(0, ids, torch.ones_like(by_index))
            sums += none.index_add(0, ids, by_index) / times.clamp_min(1)
            relus += times > 0
    return sums / relus


def places(losses: Tensor, norms: Tensor) -> Tensor:
    """Return the place of every channel, int64 `[C]`, from 0 for the one to go first.

    Those of largest loss go first; among equals (settled ones are at -1) those of least norm, then of lower index.
    """
    order = norms.argsort(stable=True)
    order = order[losses[order].argsort(stable=True, descending=True)]
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


@PRUNERS.register("stability")
class Stability(Pruner):
    """Remove the channels of largest stability loss, one shot after pretraining (NRSLoss, 2206.07311).

    -tanh(1 + l u / gamma^2), meaned over `images` training images and all neurons of a channel; [l, u] is the
    interval in front of its ReLU under the attacks of `threat` (None: 8/255 in linf), gamma the scale of the batch
    norm before it. A channel that enters several ReLUs has the mean over them. Units whose channels do not all
    enter a ReLU go by l1 norm, as with `magnitude`; `remarks` says so.

    The paper prunes by magnitude what was trained with this loss (the objectives' `stability`), and finds that
    best; channels are pruned by it in the authors' code alone. There it is one threshold for all layers, in rounds
    with weights rewound, on test images, and batch norms only; here it is the budget's distribution, in one shot.
    """

    granularities: ClassVar[tuple[str, ...]] = ("channel", "filter")
    learns: ClassVar[bool] = False
    without: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("weight", "kernel", "block", "n:m"),
        "bounds judge whole channels; train with the objective's stability and prune others by magnitude",
    )
    images: int = 64

    def __init__(
        self, threat: ThreatModel | None = None, *, granularity: str = "channel", images: int = 64
    ) -> None:
        self.granularity = check_granularity(type(self), granularity)
        if isinstance(images, bool) or not isinstance(images, int) or images < 1:
            raise ValueError(f"images is {images!r}; it counts the images that are bounded, 1 or more")
        self.images = images
        self.threat = ThreatModel() if threat is None else threat
        if not self.threat.eps:
            raise ValueError("threat.eps is 0, and without an attacker every ReLU is settled; give one above 0")

    def check(self, model: nn.Module, example: Tensor) -> None:
        """Raise `ModelError` for a network that cannot be traced, has no bounds, or no ReLU to judge."""
        self._judged(model, prunable_weights(model), example)

    def attach(self, model: nn.Module, budget: Budget, *, example: Tensor | None = None) -> None:
        """Take hold of the model and judge its channels on `example`, `[N, ...]` images in [0,1].

        Raises `ModelError` without images, for a network without bounds, and when no ReLU judges any channel.
        """
        super().attach(model, budget, example=example)
        self.keep = self.groups_to_keep()

    def _find_units(self, example: Tensor | None) -> Units:
        if example is None:
            raise ModelError("Stability judges channels on images; give attach an example, a batch [N, ...]")
        units, self.losses = self._judged(self.model, self.weights, example)
        return units

    def _judged(
        self, model: nn.Module, weights: Mapping[str, PrunableWeight], example: Tensor
    ) -> tuple[Units, dict[str, Tensor]]:
        try:
            return self._judge(model, weights, example)
        except ModelError as error:
            raise ModelError(f"method stability: {error}") from error

    def _judge(
        self, model: nn.Module, weights: Mapping[str, PrunableWeight], example: Tensor
    ) -> tuple[Units, dict[str, Tensor]]:
        """Return the units, and the loss of every channel, `[channels]`, of those whose channels all have one."""
        graph, channels = traced_channels(model, weights, self.granularity, example[:2])
        units = coupled_units(weights, self.granularity, channels)
        device = next(iter(weights.values())).dense.device
        # In float32 the losses of settled channels would all be -1.
        found = neuron_instability(graph, model, example.to(device), self.threat, dtype=torch.float64)
        by_class = class_losses(found, channels)
        losses = {name: by_class[ids].to(device) for name, ids in group_classes(units, channels).items()}
        judged = {name: each for name, each in losses.items() if bool(each.isfinite().all())}
        if not judged:
            raise ModelError(
                f"no ReLU judges the channels of any unit ({', '.join(units)}); prune this network by magnitude"
            )
        return units, judged

    @property
    def remarks(self) -> tuple[str, ...]:
        """What stays whole, and which channels no ReLU judges."""
        unjudged = [name for name in self.units if name not in self.losses]
        return (
            *self.units.remarks,
            *(f"{name}: not all of its channels enter a ReLU, so they go by l1 norm" for name in unjudged),
        )

    def finish(self) -> Masks:
        """Return the mask of the channels of least stability loss."""
        magnitudes = {name: dense.abs() for name, dense in self.dense_values().items()}
        scores = self.units.scores(magnitudes)
        for name, losses in self.losses.items():
            scores[name] = places(losses, scores[name]).double()
        live = self.units.select(scores, self.keep)
        return self.hand_over(self.units.masks(live, magnitudes))
