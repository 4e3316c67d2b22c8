"""Classifiers whose smoothed form is known exactly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hedgerow.certify import Smoothing

SHAPE = (1, 4, 4)
SMALL = Smoothing(sigma=0.25, n0=20, n=200, alpha=0.001, seed=5)


class HalfSpace(nn.Module):
    """Class 1 on one side of a hyperplane, class 0 on the other: logits 0 and w x + b."""

    def __init__(self, seed: int = 0, offset: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(16, generator=torch.Generator().manual_seed(seed)))
        self.b = nn.Parameter(offset - 0.5 * self.w.detach().sum())

    def forward(self, x: Tensor) -> Tensor:
        value = x.flatten(1) @ self.w + self.b
        return torch.stack([torch.zeros_like(value), value], 1)

    def distance(self, x: Tensor) -> Tensor:
        """The signed distance of each image to the hyperplane, positive for class 1, in double precision."""
        w = self.w.detach().double()
        return (x.double().flatten(1) @ w + self.b.detach().double()) / w.norm()

    def towards(self) -> Tensor:
        """The unit direction in which an image of class 0 comes to the hyperplane soonest."""
        return (self.w.detach() / self.w.detach().norm()).view(SHAPE)


class Slab(nn.Module):
    """Class 1 where the mean pixel m has |m - 1/2| < half, class 0 outside: under noise m is Gaussian."""

    def __init__(self, half: float) -> None:
        super().__init__()
        self.width = nn.Parameter(torch.tensor(half))

    def forward(self, x: Tensor) -> Tensor:
        value = self.width - (x.flatten(1).mean(1) - 0.5).abs()
        return torch.stack([torch.zeros_like(value), value], 1)

    def probability(self, mean: Tensor, sigma: float) -> Tensor:
        """The probability of class 1 for images with mean pixel `mean`; the mean's noise is sigma / 4."""
        normal = torch.distributions.Normal(0.0, 1.0)
        half = self.width.detach().double()
        upper, lower = (half - (mean.double() - 0.5)), (-half - (mean.double() - 0.5))
        return normal.cdf(upper / (sigma / 4)) - normal.cdf(lower / (sigma / 4))


def images(n: int, seed: int = 1) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def near(model: HalfSpace, distances: list[float]) -> Tensor:
    """Images at these signed distances from the hyperplane."""
    x = torch.full((len(distances), *SHAPE), 0.5)
    return x + (torch.tensor(distances) - model.distance(x).float()).view(-1, 1, 1, 1) * model.towards()
