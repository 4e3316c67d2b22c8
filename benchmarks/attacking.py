"""What an attack costs on a masked network in PyTorch, and on the same network in the sparse runtime.

    python benchmarks/attacking.py     # three networks at 32x32 -> results/benchmarks/attacking.json
    python benchmarks/attacking.py --models resnet20 --sparsities 0.95 --rounds 3 --out /tmp/a.json

Random weights, a random uniform mask in every layer (as in inference.py), one thread. Timed in turns, in one
process: the logits of a batch, the logits with the gradient of the pixels, and PGD-10; PyTorch has its weights
frozen and lies channels last, as our attacks have it. `ratio` is PyTorch's median over the runtime's. Before that
the logits and the gradients of both are compared. A network is written when it is measured, and the same command
goes on with those that are missing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from cells import Cells
from inference import masked
from torch import Tensor, nn

from hedgerow.attacks import pgd
from hedgerow.runtime import SparseModel, lowered
from hedgerow.threat import ThreatModel

THREAT = ThreatModel("linf", 8 / 255)


def logits(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the answers alone: what Square asks for."""
    with torch.no_grad():
        found: Tensor = network(images)
    return found


def gradient(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the cross-entropy by the pixels, the step of most attacks."""
    pixels = images.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(network(pixels), labels, reduction="sum"), pixels)[0]


def ten_steps(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the images after PGD-10."""
    return pgd(network, images, labels, threat=THREAT, steps=10, seed=0)


WORK: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
    "logits": logits,
    "gradient": gradient,
    "PGD-10": ten_steps,
}


def compared(dense: nn.Module, sparse: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Return how far the two are apart: logits, and each image's gradient (median), as shares of the largest."""
    found: dict[str, float] = {}
    for name in ("logits", "gradient"):
        a, b = (WORK[name](network, images, labels).flatten(1) for network in (dense, sparse))
        apart = (a - b).abs().amax(1) / a.abs().amax(1)
        found[name] = float(apart.max() if name == "logits" else apart.median())
    return found


def timed(dense: nn.Module, sparse: nn.Module, images: Tensor, labels: Tensor, rounds: int) -> dict[str, Any]:
    """Return milliseconds per image of both in each kind of work, and their ratio; the two take turns."""
    cells: dict[str, Any] = {}
    for name, work in WORK.items():
        seconds: dict[str, list[float]] = {"pytorch": [], "sparse": []}
        for number in range(rounds + 1):
            for who, network in (("pytorch", dense), ("sparse", sparse)):
                begin = time.perf_counter()
                work(network, images, labels)
                if number:  # the first of each is to warm up
                    seconds[who].append(time.perf_counter() - begin)
        each = {who: 1e3 * median(times) / len(images) for who, times in seconds.items()}
        cells[name] = {"ms_per_image": each, "ratio": each["pytorch"] / each["sparse"]}
    return cells


def measured(name: str, sparsity: float, batch: int, rounds: int) -> dict[str, Any]:
    """Return how far both are apart on one network, and the times of each."""
    images = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = masked(name, sparsity).requires_grad_(False)
    sparse = SparseModel(model, lowered(model, images[:1]))
    labels = logits(model, images, images[:, 0]).argmax(1)
    apart = compared(model, sparse, images, labels)
    dense = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return {"apart": apart, "work": timed(dense, sparse, images, labels, rounds)}


def main() -> None:
    """Measure everything asked for, and say each ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet20", "resnet18", "vgg16-bn"])
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.9, 0.95, 0.99])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/attacking.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    about = "An attack on a masked network in PyTorch and in the sparse runtime; one thread, 32x32 pixels"
    cells = Cells(arguments.out, about, timed=True)
    for name in arguments.models:
        for sparsity in arguments.sparsities:
            key = f"{name}, {sparsity:.0%} uniform, batch {arguments.batch}, rounds {arguments.rounds}"
            found = cells.get(key, partial(measured, name, sparsity, arguments.batch, arguments.rounds))
            told = ", ".join(f"{work} {cell['ratio']:.1f}x" for work, cell in found["work"].items())
            print(f"{name} {sparsity:.0%}: {told}; apart: {found['apart']}", flush=True)


if __name__ == "__main__":
    main()
