"""Randomized smoothing: certificates in l2 from votes under Gaussian noise (Cohen et al., 1902.02918)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hedgerow.certify.base import CERTIFIERS, Evidence, Proof
from hedgerow.certify.statistics import (
    certified_radius,
    check_alpha,
    check_draws,
    check_sigma,
    least_draws,
    lower_confidence,
    top_class,
)
from hedgerow.errors import ModelError
from hedgerow.seeds import derive, generator
from hedgerow.stochastic import answers_vary, drawing, is_stochastic
from hedgerow.threat import Norm

BLOCK = 50  # draws from one generator; part of what a seed means, so never to be changed
_PROBES = 4
_SAME = 1e-4  # relative difference of logits that kernels alone may cause


def gaussian(
    seed: int, index: int, start: int, stop: int, *, shape: Sequence[int], device: torch.device
) -> Tensor:
    """Return draws `start` to `stop` of the N(0, 1) noise of image `index`, `[stop - start, *shape]` float32.

    The sequence belongs to (seed, index) and to the kind of device, however it is cut into calls.
    """
    blocks = range(start // BLOCK, -(-stop // BLOCK))
    noise = torch.empty(len(blocks) * BLOCK, *shape, device=device)
    for block, part in zip(blocks, torch.split(noise, BLOCK), strict=True):
        part.normal_(generator=generator(seed, "smoothing", index, block, device=device))
    return noise[start - blocks.start * BLOCK : stop - blocks.start * BLOCK]


@CERTIFIERS.register("smoothing")
@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """Randomized smoothing: l2 radii by sampling, for any network (CERTIFY of Cohen et al., 1902.02918).

    The smoothed classifier gives the class that the network most often gives to x + N(0, sigma^2 I). `n0` draws
    choose a class, `n` others bound its probability from below at confidence 1 - `alpha` (Clopper-Pearson), and
    the radius is sigma * Phi^-1 of the bound; up to one half it abstains. `sigma` is in pixel units; x + noise is
    not cut to [0,1], as the theorem is about this noise.

    The network may be stochastic (the theorem allows it) if it says so, as `hedgerow.stochastic` has it: every
    image of a batch must then draw noise of its own. Raises `CertificationError` for a sigma that is not positive,
    counts below 1, alpha outside (0, 1), and an n so small that no vote could prove anything.
    """

    sigma: float
    n0: int = 100
    n: int = 10_000
    alpha: float = 0.001
    seed: int = 0

    norm: ClassVar[Norm] = "l2"
    answer_name: ClassVar[str] = "smoothed"

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        check_alpha(self.alpha)
        check_draws("n0", self.n0)
        check_draws("n", self.n)
        least = least_draws(self.alpha)
        check_draws("n", self.n, least, f": fewer cannot certify anything at alpha {self.alpha:g}")

    @property
    def asks(self) -> int:
        """Return the draws of an image."""
        return self.n0 + self.n

    @property
    def label(self) -> str:
        """Return sigma: what tells two folders apart."""
        return f"{self.sigma:g}"

    @property
    def answer_how(self) -> str:
        """How the plain predictions come about."""
        return f"most frequent class of {self.n:,} draws at sigma {self.sigma:g}, without proof"

    def settings(self) -> dict[str, Any]:
        """Return sigma, n0, n, alpha and seed."""
        return asdict(self)

    def describe(self) -> str:
        """Return in words how a radius is obtained and what it promises."""
        return (
            f"randomized smoothing (CERTIFY, 1902.02918), l2, sigma {self.sigma:g}, n0 {self.n0:,}, n {self.n:,}, "
            f"alpha {self.alpha:g}: each radius is wrong with probability {self.alpha:g} at most"
        )

    def radii(self) -> list[float]:
        """Return the multiples of sigma / 10 from 0 to the largest radius that n votes can prove."""
        largest = certified_radius(lower_confidence(self.n, self.n, self.alpha), self.sigma) or 0.0
        return [round(k * self.sigma / 10, 10) for k in range(int(10 * largest / self.sigma) + 1)]

    def together(self, model: nn.Module, batch_size: int) -> int:
        """Return how many images fill one batch with all their draws; a stochastic network takes them singly.

        Its own noise is by batch, so an image alone in its batches gets the same whatever the others are.
        """
        return 1 if is_stochastic(model) else max(1, batch_size // (self.n0 + self.n))

    def check(self, model: nn.Module, x: Tensor) -> None:
        """Raise `ModelError` unless the votes of a batch are independent draws of one classifier."""
        noise = gaussian(self.seed, -1, 0, 2 * _PROBES, shape=x.shape[1:], device=x.device)
        probe = x[:1] + self.sigma * noise
        _logits(model, probe, "a check of the network")
        if not is_stochastic(model) and answers_vary(model, probe):
            raise ModelError(
                "the network answers the same images differently each time and no module of it says that it is "
                "stochastic; make it deterministic in eval mode, or, if every image of a batch draws noise of its "
                "own, give the module that draws an attribute `stochastic = True`"
            )
        neighbours = [probe[:_PROBES], torch.cat([probe[:1], probe[_PROBES + 1 :]])]
        answers = []
        for batch in neighbours:
            with drawing(model, self.seed):
                answers.append(model(batch)[0])
        if torch.linalg.vector_norm(answers[0] - answers[1]) > _SAME * torch.linalg.vector_norm(answers[0]):
            raise ModelError(
                "the network's answer to an image depends on the other images of the batch (batch norm without "
                "running statistics, or noise scaled by the batch?), so votes are not independent and prove "
                "nothing; let each image be answered by itself in eval mode"
            )

    def examine(self, model: nn.Module, x: Tensor, positions: Sequence[int], batch_size: int) -> list[Evidence]:
        """Return the votes on `[G, ...]` images, `{class: count}` of `selection` and of `estimation`."""
        votes = self._count(model, x, positions, batch_size)
        return [
            {
                name: {str(c): count for c, count in enumerate(counts) if count}
                for name, counts in zip(("selection", "estimation"), image, strict=True)
            }
            for image in votes.tolist()
        ]

    def _count(self, model: nn.Module, x: Tensor, positions: Sequence[int], batch_size: int) -> Tensor:
        """Return int64 votes `[G, 2, C]`; all draws of all images are laid end to end and cut into batches."""
        draws = self.n0 + self.n
        total = len(x) * draws
        votes = torch.zeros(0, dtype=torch.int64, device=x.device)
        classes = 0
        with self._own_noise(model, positions):
            for start in range(0, total, batch_size):
                stop = min(start + batch_size, total)
                logits = _logits(model, self._noisy(x, positions, start, stop), _named(positions, start // draws))
                if not classes:
                    classes = logits.shape[1]
                    votes = votes.new_zeros(len(x) * 2 * classes)
                row = torch.arange(start, stop, device=x.device)
                part = 2 * (row // draws) + (row % draws >= self.n0)
                votes += torch.bincount(part * classes + logits.argmax(1), minlength=len(votes))
        return votes.view(len(x), 2, classes)

    def _noisy(self, x: Tensor, positions: Sequence[int], start: int, stop: int) -> Tensor:
        draws = self.n0 + self.n
        parts = []
        for i in range(start // draws, (stop - 1) // draws + 1):
            first, last = max(start - i * draws, 0), min(stop - i * draws, draws)
            noise = gaussian(self.seed, positions[i], first, last, shape=x.shape[1:], device=x.device)
            parts.append(noise.mul_(self.sigma).add_(x[i]))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _own_noise(self, model: nn.Module, positions: Sequence[int]) -> AbstractContextManager[None]:
        if not is_stochastic(model):
            return nullcontext()
        return drawing(model, derive(self.seed, "smoothing network", *positions), shared=False)

    def conclude(self, evidence: Evidence) -> Proof:
        """Return the class and the radius that the votes prove, and the most frequent class."""
        selected = top_class(_counts(evidence["selection"]))
        estimation = _counts(evidence["estimation"])
        successes = estimation[selected] if selected < len(estimation) else 0
        radius = certified_radius(lower_confidence(successes, self.n, self.alpha), self.sigma)
        answer = top_class(estimation)
        return Proof(None, 0.0, answer) if radius is None else Proof(selected, radius, answer)


def _counts(votes: Mapping[str, int]) -> list[int]:
    return [votes.get(str(c), 0) for c in range(max(map(int, votes)) + 1)]


def _named(positions: Sequence[int], first: int) -> str:
    return f"image {positions[first]}" if len(positions) == 1 else f"image {positions[first]} or one after it"


def _logits(model: nn.Module, x: Tensor, where: str) -> Tensor:
    """Return `[N, C]` finite logits; anything else cannot vote."""
    logits = model(x)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x) or not logits.shape[1]:
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"{where}: the network returned {found}; expected logits [{len(x)}, classes]")
    if not bool(logits.isfinite().all()):
        raise ModelError(
            f"{where}: the network returned NaN or infinity under noise, and that is no vote. Pixels with noise "
            "leave [0,1]: look for a log, a root or a division that cannot take them"
        )
    return logits
