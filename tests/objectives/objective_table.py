"""Every registered objective, and a small network with batch norm to train with it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from hedgerow.objectives import OBJECTIVES
from hedgerow.threat import ThreatModel

THREAT = ThreatModel("linf", "1/10")
EXTRAS: dict[str, dict[str, Any]] = {"awp": {"awp": 0.02}, "smoothed": {"label_smoothing": 0.1}}


def takes(name: str, option: str) -> bool:
    return option in inspect.signature(OBJECTIVES[name]).parameters


# Every objective as it is, and with each option that several of them share: `trades+awp`.
CASES = [*OBJECTIVES, *(f"{n}+{e}" for e, given in EXTRAS.items() for n in OBJECTIVES if takes(n, *given))]


def make(name: str, threat: ThreatModel = THREAT, **options: Any) -> Any:
    """An objective by its registered name or its case; options that it does not take are left out."""
    name, _, extra = name.partition("+")
    kind = OBJECTIVES[name]
    accepted = inspect.signature(kind).parameters
    wanted = {"threat": threat, "steps": 3, **EXTRAS.get(extra, {}), **options}
    return kind(**{key: value for key, value in wanted.items() if key in accepted})


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)
    ).train()


def batch(n: int = 12) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, torch.arange(n) % 3


def robust_at(objective: Any, done: float) -> float:
    """The robust term of a fresh network at a place in the objective's schedule."""
    objective.progress(done)
    return float(objective(network(), *batch())[1]["robust"])


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def buffers(model: nn.Module) -> dict[str, list[Any]]:
    return {name: buffer.tolist() for name, buffer in model.named_buffers()}


def same(one: list[Tensor], other: list[Tensor], atol: float = 0.0) -> bool:
    return all(torch.allclose(a, b, atol=atol, rtol=0) for a, b in zip(one, other, strict=True))
