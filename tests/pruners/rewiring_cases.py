"""What the tests of DNR and Flying Bird share: small networks, a plain loop, slow forms of drop and growth."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.pruners import Progress
from hedgerow.pruners.dnr import DNR
from hedgerow.pruners.rewiring import Rewiring
from hedgerow.sparsity import prunable_weights, shared_weights

STEPS = 3


def small_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.Tanh(),
        nn.Conv2d(6, 4, 3, groups=2),
        nn.Flatten(),
        nn.Linear(64, 3),
    ).double()


def batches(epoch: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(epoch)
    return [
        (torch.rand(8, 1, 8, 8, generator=generator, dtype=torch.float64), torch.arange(8) % 3)
        for _ in range(STEPS)
    ]


def sgd(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01)


def run(
    model: nn.Module,
    pruner: Rewiring,
    epochs: int,
    *,
    make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] = sgd,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """The loop's hooks in their order, over an attached pruner; `watch` looks after every step."""
    optimizer = make(pruner.parameters())
    for epoch in range(epochs):
        for step, (x, y) in enumerate(batches(epoch)):
            optimizer.zero_grad()
            with shared_weights(model):
                loss = F.cross_entropy(model(x), y)
                penalty = pruner.penalty()
                (loss if penalty is None else loss + penalty).backward()
            pruner.after_backward()
            optimizer.step()
            progress = Progress(epoch, epochs, step, STEPS)
            pruner.after_step(progress)
            watch(progress)


def dense_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.dense.detach().clone() for name, weight in prunable_weights(model).items()}


def twin_of(model: nn.Module) -> nn.Module:
    """A plain copy of a masked model, zeros and all."""
    twin = small_model()
    plain = {k.replace("parametrizations.", "").replace(".original", ""): t for k, t in model.state_dict().items()}
    twin.load_state_dict({k: t for k, t in plain.items() if k in twin.state_dict()})
    return twin


class Watched(DNR):
    """Keeps what every rewiring found and left."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[dict[str, Any]] = []

    def snapshot(self) -> dict[str, dict[str, Tensor]]:
        buffers = {n: {k: b.clone() for k, b in m.named_buffers()} for n, m in self.moving.items()}
        return {n: {**buffers[n], "theta": w} for n, w in dense_weights(self.model).items() if n in buffers}

    def rewire(self, progress: Progress) -> None:
        before = self.snapshot()
        super().rewire(progress)
        self.seen.append({"progress": progress, "before": before, "after": self.snapshot()})


def slow_drop(weight: Tensor, mask: Tensor, count: int) -> Tensor:
    """Remove live places one at a time, each time the first of smallest |w|."""
    values, live = weight.flatten().tolist(), mask.flatten().tolist()
    for _ in range(count):
        worst = None
        for place, alive in enumerate(live):
            if alive and (worst is None or abs(values[place]) < abs(values[worst])):
                worst = place
        assert worst is not None
        live[worst] = False
    return torch.tensor(live).view(mask.shape)


def slow_grow(score: Tensor, mask: Tensor, count: int) -> Tensor:
    """Add free places one at a time, each time the last of largest |score|."""
    values, live = score.flatten().tolist(), mask.flatten().tolist()
    for _ in range(count):
        best = None
        for place, alive in enumerate(live):
            if not alive and (best is None or abs(values[place]) >= abs(values[best])):
                best = place
        assert best is not None
        live[best] = True
    return torch.tensor(live).view(mask.shape)


def slow_cosine(start: float, end: float, epoch: int, epochs: int) -> float:
    """The share to move after the first step of an epoch, counted in mini-batches."""
    step, steps = epoch * STEPS + 1, epochs * STEPS
    return end + (start - end) * (1 + math.cos(math.pi * step / steps)) / 2


def slow_removal(live: dict[str, int], sizes: dict[str, int], mu: dict[str, float], p: float) -> dict[str, int]:
    counts = {}
    for name, alive in live.items():
        p_l = Fraction(p).limit_denominator(10**12)
        zeros = Fraction(sizes[name] - alive, sizes[name])
        if zeros < Fraction(1, 5) and mu[name] > 1 / len(live):
            p_l = min(p_l, zeros)
        counts[name] = min(math.ceil(p_l * alive), alive - 1)
    return counts


def slow_growth(removed: int, free: dict[str, int], mu: dict[str, float]) -> dict[str, int]:
    """One overfull layer at a time, in exact fractions: cap it, share what is left among the others again."""
    share = {name: Fraction(value).limit_denominator(10**12) for name, value in mu.items()}
    cap = {name: (99 * places) // 100 for name, places in free.items()}
    if sum(cap.values()) < removed:
        cap = dict(free)
    grown: dict[str, int] = {}
    while True:
        others = [name for name in free if name not in grown]
        left = removed - sum(grown.values())
        total = sum(share[name] for name in others)
        exact = {n: share[n] * left / total if total else Fraction(left, len(others)) for n in others}
        over = [name for name in others if exact[name] > cap[name]]
        if not over:
            break
        for name in over:
            grown[name] = cap[name]
    rounded = {name: math.ceil(value) for name, value in exact.items()}
    while sum(rounded.values()) > left:  # each time from the layer that rounding has given most
        favoured = max(others, key=lambda name: rounded[name] - exact[name])
        rounded[favoured] -= 1
    return {name: {**grown, **rounded}[name] for name in free}


def slow_sparse_momentum(
    weights: dict[str, Any], v: dict[str, Tensor], masks: dict[str, Tensor], p: float
) -> dict[str, Tensor]:
    live = {n: int(m.sum()) for n, m in masks.items()}
    sizes = {n: m.numel() for n, m in masks.items()}
    means = {n: float(v[n][masks[n]].abs().mean()) for n in v}
    mu = {n: mean / sum(means.values()) for n, mean in means.items()}
    removed = slow_removal(live, sizes, mu, p)
    grown = slow_growth(sum(removed.values()), {n: sizes[n] - live[n] + removed[n] for n in live}, mu)
    new = {}
    for name, weight in weights.items():
        survivors = slow_drop(weight.detach(), masks[name], removed[name])
        weight[~survivors] = 0.0
        new[name] = slow_grow(v[name], survivors, grown[name])
    return new
