"""How fast a pruned network runs on this CPU, beside every dense engine that is installed.

    python benchmarks/inference.py             # ResNet-18, VGG-16-BN at 32x32 -> results/benchmarks/inference.json
    python benchmarks/inference.py --runs runs/compare-digits-methods/seed-0/hydra-0.99
    python benchmarks/inference.py --models resnet20 --sparsities 0.99 --threads 1 --seconds 0.5 --out /tmp/i.json

The networks: random weights with a random uniform mask in every layer, and those of finished runs (--runs, with
the masks that a pruner found). Each is written in every form (hedgerow.export, which compares it with PyTorch),
and every form is timed in a process of its own, in turns, for all batch sizes and thread counts
(hedgerow.engines.timing). Dense are PyTorch, ONNX Runtime in float32 and int8, and OpenVINO where it is installed,
all of the masked weights: zeros gain them nothing. `ratio` is the time of the best dense float32 engine of the
same cell over that of the row, medians. Images are random pixels, and int8 is calibrated on random ones or, of a
run, on training images: speed does not depend on what they show.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hedgerow.doctor import this_machine
from hedgerow.engines.timing import Plan, Subject, Timings, measure
from hedgerow.errors import HedgerowError
from hedgerow.export import Material, write_form
from hedgerow.exporting.source import source_of
from hedgerow.models import build_model
from hedgerow.runtime import Conv, dense_macs, load
from hedgerow.sparsity import prunable_weights

ROWS = {
    "PyTorch, dense": ("sparse", "torch"),
    "ONNX Runtime, dense": ("onnx", "onnxruntime"),
    "OpenVINO, dense": ("onnx", "hedgerow.engines.openvino:OpenVino"),
    "ONNX Runtime, dense int8": ("onnx-int8", "onnxruntime"),
    "ONNX Runtime, shrunk": ("shrunk-onnx", "onnxruntime"),
    "sparse": ("sparse", "sparse"),
    "shrunk and sparse": ("shrunk", "sparse"),
}
DENSE = ("PyTorch, dense", "ONNX Runtime, dense", "OpenVINO, dense")  # of float32: what a ratio is to
SIZE = 32


@dataclass(frozen=True)
class Case:
    """A network to time: its name, the module in eval mode, images as it takes them, others to calibrate on."""

    name: str
    model: nn.Module
    images: Tensor
    calibration: Tensor


def masked(name: str, sparsity: float) -> nn.Module:
    """Return a network with random weights of which that share, the same in every layer, was removed at random."""
    model = build_model(
        name, num_classes=10, channels=3, image_size=(SIZE, SIZE), mean=[0.5] * 3, std=[0.25] * 3, seed=0
    ).eval()
    dice = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path, weight in prunable_weights(model).items():
            size = weight.dense.numel()
            kept = max(1, round((1 - sparsity) * size))
            gone = torch.ones(size, dtype=torch.bool)
            gone[torch.randperm(size, generator=dice)[:kept]] = False
            # As strong together as before: vanishing activations would be slow numbers near 0.
            model.get_parameter(path).mul_((size / kept) ** 0.5).masked_fill_(gone.view_as(weight.dense), 0)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.copy_(0.1 * torch.randn(module.bias.shape, generator=dice))
    return model


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Yield everything that is to be timed."""
    images = torch.rand(64, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    for name in arguments.models:
        for sparsity in arguments.sparsities:
            yield Case(f"{name}, {sparsity:.0%} uniform", masked(name, sparsity), images, images)
    for run in arguments.runs:
        source = source_of(run, None)
        test, train = (split.take(64, source.recipe.seed).pixels() for split in (source.test, source.train))
        yield Case(f"{source.recipe.name}, {run.name}", source.model, test, train)


def timed(case: Case, plan: Plan) -> dict[str, Any]:
    """Return what a network keeps, and of every row and cell its times and its ratio to the best dense engine."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, refused, subjects = Path(scratch), {}, {}
        material = Material(case.model, case.images, case.calibration)
        paths: dict[str, Path] = {}
        for row, (form, engine) in ROWS.items():
            if "openvino" in engine and find_spec("openvino") is None:
                refused[row] = "OpenVINO is not installed"
                continue
            try:
                paths[form] = paths.get(form) or write_form(form, folder, material)[0]
                subjects[row] = Subject(row, engine, paths[form])
            except HedgerowError as error:
                refused[row] = str(error)
        timings = measure(list(subjects.values()), plan, tell=lambda text: print(f"  {text}", flush=True))
        sizes = {form: path.stat().st_size for form, path in paths.items()}
        counts = counted(paths["sparse"]) if any(t.form == "sparse" for t in timings.latencies) else {}
    return counts | {"bytes_on_disk": sizes, "refused": refused | timings.refused, "cells": _cells(timings)}


def counted(path: Path) -> dict[str, int]:
    """Return the weights and the multiplications per image of a sparse file."""
    network = load(path).network
    convs = [step for step in network.steps if isinstance(step, Conv)]
    return {
        "weights": sum(len(conv.taps.values) for conv in convs),
        "multiplications": network.macs,
        "multiplications_dense": dense_macs(network),
    }


def _cells(timings: Timings) -> list[dict[str, Any]]:
    cells = []
    for found in timings.latencies:
        beside = [t for t in timings.latencies if (t.batch, t.threads) == (found.batch, found.threads)]
        best = min((t.median_ms for t in beside if t.form in DENSE), default=float("nan"))
        cells.append(found.model_dump() | {"ratio": best / found.median_ms})
    return cells


def shown(name: str, record: dict[str, Any]) -> str:
    """Return a network's cells as a Markdown table: milliseconds, and the ratio to the best dense engine."""
    cells = record["cells"]
    columns = sorted({(cell["threads"], cell["batch"]) for cell in cells})
    titles = [f"batch {batch}, threads {threads}" for threads, batch in columns]
    lines = [f"| {name} | {' | '.join(titles)} |", f"|---|{'---:|' * len(columns)}"]
    for row in ROWS:
        texts = []
        for column in columns:
            found = [c for c in cells if c["form"] == row and (c["threads"], c["batch"]) == column]
            texts += [f"{cell['median_ms']:.2f} ms ({cell['ratio']:.1f}x)" for cell in found]
        lines += [f"| {row} | {' | '.join(texts)} |"] if texts else []
    return "\n".join(lines)


def main() -> None:
    """Measure everything asked for, print each network's table, and write the record after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["resnet18", "vgg16-bn"])
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.9, 0.95, 0.99])
    parser.add_argument("--runs", nargs="*", type=Path, default=[], help="folders of finished runs")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=3.0, help="of runs for every cell of a table")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/inference.json"))
    arguments = parser.parse_args()
    plan = Plan(batches=tuple(arguments.batches), threads=tuple(arguments.threads), seconds=arguments.seconds)
    record: dict[str, Any] = {"machine": this_machine(), "seconds": arguments.seconds, "networks": {}}
    for case in cases(arguments):
        print(case.name, flush=True)
        record["networks"][case.name] = timed(case, plan)
        print(shown(case.name, record["networks"][case.name]), flush=True)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
