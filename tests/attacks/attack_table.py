"""Every attack under one signature, and the small networks they are tried on."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hedgerow.attacks import autoattack, fgsm, pgd
from hedgerow.threat import Norm, ThreatModel

CLASSES = 3


@dataclass(frozen=True)
class Row:
    """One attack, its norm, and a radius at which it is quick on `network`."""

    run: Callable[..., Tensor]
    norm: Norm
    eps: str

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, eps: str | None = None, **options: Any) -> Tensor:
        return self.run(model, x, y, threat=ThreatModel(self.norm, eps or self.eps), **options)


def _pgd(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    return pgd(model, x, y, **{"steps": 5, "restarts": 2, **options})


def _autoattack(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    return autoattack(model, x, y, **{"num_classes": CLASSES, **options})


# AutoAttack spends its time on images that it cannot break, so its radius here is large.
ATTACKS = {
    "fgsm linf": Row(fgsm, "linf", "8/255"),
    "fgsm l2": Row(fgsm, "l2", "1/2"),
    "pgd linf": Row(_pgd, "linf", "8/255"),
    "pgd l2": Row(_pgd, "l2", "1/2"),
    "autoattack linf": Row(_autoattack, "linf", "1/2"),
    "autoattack l2": Row(_autoattack, "l2", "4"),
}


def network(classes: int = CLASSES, seed: int = 0) -> nn.Module:
    """A small network whose batch norm has seen data, with a frozen parameter."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(36, classes)
    )
    model(torch.rand(32, 1, 8, 8))
    next(model.parameters()).requires_grad_(False)
    return model.eval()


def images(n: int = 6, seed: int = 0) -> Tensor:
    """Noise images with some pixels at 0 and some at 1."""
    return (torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 1.2 - 0.1).clamp(0, 1)


def predictions(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


def global_random_state() -> tuple[bytes, str, str]:
    """The state of every global generator, in a form that can be compared."""
    return torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state()), repr(random.getstate())  # noqa: NPY002


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All that making an adversarial example must leave alone."""
    return {
        "modes": [module.training for module in model.modules()],
        "trainable": [p.requires_grad for p in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        "values": {name: value.tolist() for name, value in model.state_dict().items()},
        "random": global_random_state(),
    }
