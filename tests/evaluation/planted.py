"""Networks whose robustness is an illusion, and other faults that an evaluation must not be taken in by."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.threat import ThreatModel


class Around(nn.Module):
    """A network with something done to its images and to its logits."""

    def __init__(
        self,
        model: nn.Module,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda z: z,
    ) -> None:
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.model(self.before(x)))


class Stuck(nn.BatchNorm2d):
    """A batch norm that cannot be told to leave train mode."""

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(True)


def jpeg_like(x: Tensor) -> Tensor:
    """Coefficients of the 8x8 cosine transform, rounded to steps."""
    i = torch.arange(8, dtype=x.dtype)
    basis = torch.cos((2 * i + 1) * i[:, None] * torch.pi / 16) / 2
    basis[0] /= 2**0.5
    return basis.T @ ((basis @ x @ basis.T) / 0.25).round() * 0.25 @ basis


def through_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy((x.numpy() * 8 // 1) / 8)


def nearest_level(x: Tensor) -> Tensor:
    levels = torch.linspace(0, 1, 4)
    return levels[(x[..., None] - levels).abs().argmin(-1)]


MASKED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "saturated logits": lambda model: Around(model, after=lambda z: 1e4 * z),
    "saturated softmax": lambda model: Around(model, after=lambda z: (100 * z).softmax(1)),
    "rounded inputs": lambda model: Around(model, before=lambda x: (4 * x).round() / 4),
    "threshold": lambda model: Around(model, before=lambda x: (x > 0.5).to(x.dtype)),
    "nearest level by argmin": lambda model: Around(model, before=nearest_level),
    "JPEG-like": lambda model: Around(model, before=jpeg_like),
    "NumPy": lambda model: Around(model, before=through_numpy),
}

RANDOM: dict[str, Callable[[nn.Module], nn.Module]] = {
    "noise at inference": lambda model: Around(model, before=lambda x: x + 0.2 * torch.randn_like(x)),
    "dropout left on": lambda model: Around(model, before=lambda x: F.dropout(x, 0.3)),
}


def stuck_in_training(model: nn.Sequential) -> nn.Module:
    """Return the digits network with its batch norm in train mode for ever."""
    norm = Stuck(12)
    norm.load_state_dict(model[1].state_dict())
    return nn.Sequential(model[0], norm, *model[2:])


def digits_network() -> nn.Sequential:
    """Return an untrained network for digits, its initial weights always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 10),
        )


THREAT = ThreatModel("linf", "1/8")
