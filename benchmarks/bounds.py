"""What sound bounds cost: IBP as a multiple of a plain forward, images per second, and memory.

    python benchmarks/bounds.py                      # cnn-small, cnn-large, resnet20 -> results/
    python benchmarks/bounds.py --models cnn-small --batches 16 --out /tmp/b.json

First the bounds of every network are checked on one image: no random point or corner of the ball is below one,
later methods are nowhere looser, and IBP of the plain CNNs equals intervals written out layer by layer. CROWN,
which works on an image at a time, is timed there, once. Then, for each batch size, a plain forward and the other
methods are timed in turns in one process, `--rounds` times after one that does not count; ratios are medians
over rounds of times that stand next to each other. `ibp, training` is the forward half of the objective: with
gradients, and nothing added for rounding. Memory is what a process of its own grows by at its peak after network
and images were there. Images and weights are random: speed does not depend on what they show, but for CROWN,
whose work is the neurons whose sign is open. A cell is written when it is done; the same command goes on with
those missing.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cells import Cell, Cells, forget_peak, held
from torch import Tensor, nn

from hedgerow.bounds import Network, ball, interval_least, interval_walk, margin_bounds
from hedgerow.models import Normalize, build_model
from hedgerow.threat import ThreatModel
from hedgerow.tracing import Graph, trace

THREAT = ThreatModel("linf", "2/255")
METHODS = ("ibp", "crown-ibp", "crown")
TRAINING = "ibp, training"


def network(name: str, size: int) -> nn.Module:
    """Return a network with random weights, from one seed."""
    return build_model(
        name, num_classes=10, channels=3, image_size=(size, size), mean=[0.5] * 3, std=[0.25] * 3, seed=0
    ).eval()


def images(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Return random images and labels."""
    dice = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, size, size, generator=dice), torch.randint(0, 10, (count,), generator=dice)


def work(model: nn.Module, graph: Graph, x: Tensor, y: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return what is timed, by its name."""

    def training() -> Tensor:
        unit = torch.eye(10)
        found = interval_walk(Network(graph, model), ball(x, THREAT))
        return interval_least(found, unit[y].unsqueeze(1) - unit)

    def forward() -> Tensor:
        with torch.no_grad():
            return model(x)  # type: ignore[no-any-return]

    def bounds(method: Any) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.no_grad():
                return margin_bounds(graph, model, x, y, THREAT, method)

        return run

    methods = {method: bounds(method) for method in METHODS}
    return {"forward": forward, TRAINING: training, **methods}


def checked(model: nn.Module, graph: Graph, size: int) -> Cell:
    """Return CROWN's seconds, and how far IBP is from intervals written out; raise for unsound bounds."""
    x, y = images(1, size)
    found: dict[str, Tensor] = {}
    for name, run in work(model, graph, x, y).items():
        before = time.perf_counter()
        found[name] = run()
        seconds = time.perf_counter() - before  # of CROWN, the last
    del found["forward"]
    dice = torch.Generator().manual_seed(1)
    eps = float(THREAT.eps)
    with torch.no_grad():
        for scale in (torch.sign, torch.asarray):
            for _ in range(20):
                noise = scale(2 * torch.rand(x.shape, generator=dice) - 1)
                logits = model((x + eps * noise).clamp(0, 1))
                margins = logits.gather(1, y.unsqueeze(1)) - logits
                for name, bound in found.items():
                    if not bool((bound <= margins + 1e-3 * margins.abs().max()).all()):
                        raise SystemExit(f"{name}: a point of the ball is below its bound")
    for loose, tight in itertools.pairwise(METHODS):
        if not bool((found[tight] >= found[loose] - 1e-3 * found[loose].abs()).all()):
            raise SystemExit(f"{tight} is looser than {loose}")
    written = written_out(model, x, y)
    if written is None:
        return {"crown_seconds": seconds}
    apart = float(((found[TRAINING] - written).abs() / (1 + written.abs())).max().detach())
    if apart > 1e-3:
        raise SystemExit(f"IBP is off by {apart:.1e} from intervals written out")
    return {"crown_seconds": seconds, "written_out": apart}


def written_out(model: nn.Module, x: Tensor, y: Tensor) -> Tensor | None:
    """Return IBP's margin bounds of a plain chain of layers, step by step in double precision; None for others."""
    layers = [m for m in model.modules() if not list(m.children())]
    if not all(isinstance(m, Normalize | nn.Conv2d | nn.Linear | nn.ReLU | nn.Flatten) for m in layers):
        return None
    region = ball(x, THREAT)
    low, high = region.lower.double(), region.upper.double()
    with torch.no_grad():
        for layer in layers[:-1]:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                middle, half = (low + high) / 2, (high - low) / 2
                weight, bias = layer.weight.double(), layer.bias.double()
                if isinstance(layer, nn.Conv2d):
                    how = {"stride": layer.stride, "padding": layer.padding}
                    middle = nn.functional.conv2d(middle, weight, bias, **how)
                    half = nn.functional.conv2d(half, weight.abs(), **how)
                else:
                    middle, half = middle @ weight.T + bias, half @ weight.abs().T
                low, high = middle - half, middle + half
            else:
                low, high = layer(low), layer(high)
        last: Any = layers[-1]
        rows = last.weight.double()[y].unsqueeze(1) - last.weight.double()
        offset = last.bias.double()[y].unsqueeze(1) - last.bias.double()
        middle, half = ((low + high) / 2).unsqueeze(2), ((high - low) / 2).unsqueeze(2)
        return (rows @ middle - rows.abs() @ half).squeeze(2) + offset


def timed(arguments: argparse.Namespace, name: str, batch: int) -> Cell:
    """Return seconds, ratios to a plain forward next to it, and images per second, of one batch size."""
    model = network(name, arguments.size)
    todo = work(model, trace(model, images(2, arguments.size)[0]), *images(batch, arguments.size))
    del todo["crown"]
    seconds: dict[str, list[float]] = {each: [] for each in todo}
    for _ in range(arguments.rounds + 1):
        for each, run in todo.items():
            before = time.perf_counter()
            run()
            seconds[each].append(time.perf_counter() - before)
    kept = {each: times[1:] for each, times in seconds.items()}
    ratios = {n: [a / b for a, b in zip(times, kept["forward"], strict=True)] for n, times in kept.items()}
    return {
        "seconds": {each: statistics.median(times) for each, times in kept.items()},
        "times_forward": {each: statistics.median(found) for each, found in ratios.items() if each != "forward"},
        "images_per_second": {each: batch / statistics.median(times) for each, times in kept.items()},
    }


def peaks(arguments: argparse.Namespace, name: str, batch: int, methods: tuple[str, ...]) -> Cell:
    """Return the peak growth, in bytes, of a process that does each thing once."""
    found = {}
    for method in methods:
        call = [sys.executable, __file__, "--one", name, str(batch), method]
        call += ["--size", str(arguments.size), "--threads", str(arguments.threads)]
        out = subprocess.run(call, check=True, capture_output=True, text=True).stdout
        found[method] = int(out.splitlines()[-1])
    return {"peak_bytes": found}


def of_network(arguments: argparse.Namespace, name: str) -> Cell:
    """Return what is measured on one image: that bounds hold, and CROWN."""
    model = network(name, arguments.size)
    found = checked(model, trace(model, images(2, arguments.size)[0]), arguments.size)
    return {"parameters": sum(p.numel() for p in model.parameters()), **found}


def one(arguments: argparse.Namespace) -> None:
    """Do one thing once in this process, and print by how many bytes the process grew."""
    name, batch, method = arguments.one
    model = network(name, arguments.size)
    x, y = images(int(batch), arguments.size)
    todo = work(model, trace(model, x[:2]), x, y)
    with torch.no_grad():
        model(x[:1])  # libraries are loaded before memory is counted
    forget_peak()  # tracing went higher than bounds may
    before = held("VmRSS")
    todo[method]()
    print(held("VmHWM") - before)


def main() -> None:
    """Check and measure everything asked for, print it line by line, and write it after each line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["cnn-small", "cnn-large", "resnet20"])
    parser.add_argument("--batches", nargs="+", type=int, default=[16, 128])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/bounds.json"))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        one(arguments)
        return
    cells = Cells(arguments.out, f"Bounds at {THREAT} in float32; see benchmarks/bounds.py", timed=True)
    for name in arguments.models:
        settings = f"{name}, images {arguments.size}x{arguments.size}, threads {arguments.threads}"
        found = cells.get(f"{settings}, one image", partial(of_network, arguments, name))
        memory = cells.get(f"{settings}, one image, memory", partial(peaks, arguments, name, 1, METHODS))
        told = f"{memory['peak_bytes']['crown'] / 1e6:.0f} MB"
        print(f"{name}: bounds hold; CROWN of one image: {found['crown_seconds']:.2f} s, {told}", flush=True)
        for batch in arguments.batches:
            place = f"{settings}, batch {batch}, rounds {arguments.rounds}"
            cell = cells.get(place, partial(timed, arguments, name, batch))
            cells.get(f"{place}, memory", partial(peaks, arguments, name, batch, ("forward", *METHODS[:2])))
            ratios = ", ".join(f"{k} {v:.2f}" for k, v in cell["times_forward"].items())
            speeds = ", ".join(f"{k} {v:.3g}/s" for k, v in cell["images_per_second"].items())
            print(f"{name}, batch {batch}: times a forward: {ratios}; images: {speeds}", flush=True)


if __name__ == "__main__":
    main()
