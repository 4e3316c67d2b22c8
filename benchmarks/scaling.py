"""How the cost of a robust training step grows: with the batch, the width, the attack's steps and processes.

    python benchmarks/scaling.py                     # ResNet-20 at 32x32 -> results/benchmarks/scaling.json, .svg
    python benchmarks/scaling.py --axes steps batch --out /tmp/s.json
    python benchmarks/scaling.py --images 8x8 --axes processes --values 1 2 --out /tmp/s.json

One thing is changed at a time; all others are those of BASE. A step is one of PGD adversarial training by the
product's loop in float32, channels-last, one thread per process; `seconds_per_image` is the median of `--repeats`
steps, after one that does not count, over the images of the whole batch. Processes share one batch (gloo). A cell
is one measurement in processes of its own; it is written when it is done, and the same command goes on with those
that are missing, then draws the plot. Images are random: speed does not depend on what they show.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from cells import Cell, Cells

from hedgerow.bench.measure import Clock
from hedgerow.data import Split
from hedgerow.files import write_text
from hedgerow.models import build_model
from hedgerow.objectives import PGDAdversarialTraining
from hedgerow.report.canvas import FOREGROUND, MARKERS, PALETTE, Plot
from hedgerow.team import launch
from hedgerow.threat import ThreatModel
from hedgerow.training import Plan, Setting, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASE = {"batch": 32, "width": 16, "steps": 5, "processes": 1}
VALUES = {"batch": [8, 16, 32, 64, 128], "width": [8, 16, 32, 64], "steps": [1, 2, 5, 10, 20], "processes": [1, 2]}
TITLES = {"batch": "images in a batch", "width": "channels of the first stage", "steps": "steps of the attack"}
TITLES |= {"processes": "processes"}


def one(size: tuple[int, int], repeats: int, batch: int, width: int, steps: int, processes: int) -> None:
    """Train for some steps in this process and those it starts; the first prints seconds per image as JSON."""
    torch.set_num_threads(1)
    members = launch(processes, 1, "cpu")
    model = build_model(
        "resnet20",
        num_classes=10,
        channels=3,
        image_size=size,
        mean=[0.5] * 3,
        std=[0.25] * 3,
        seed=0,
        options={"width": width},
    )
    dice = torch.Generator().manual_seed(0)
    count = batch * (repeats + 1)
    pixels = torch.randint(0, 256, (count, 3, *size), generator=dice, dtype=torch.uint8)
    split = Split(pixels, torch.randint(0, 10, (count,), generator=dice))
    clock = Clock()
    setting = Setting(accelerator="cpu", channels_last=True, listeners=(clock,))
    plan = Plan(epochs=1, lr=0.01, batch_size=batch, select="last")
    train(model, split, PGDAdversarialTraining(ThreatModel(), steps=steps), plan=plan, setting=setting)
    if members.first:
        print(json.dumps([seconds / batch for seconds in clock.seconds()]), flush=True)


def measured(arguments: argparse.Namespace, what: dict[str, int]) -> Cell:
    """Return the seconds per image of every step that counts."""
    call = [sys.executable, __file__, "--images", arguments.images, "--repeats", str(arguments.repeats)]
    call += ["--one", *(str(what[axis]) for axis in BASE)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    out = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    seconds = json.loads(next(line for line in reversed(out.splitlines()) if line.startswith("[")))
    return {**what, "seconds_per_image": statistics.median(seconds), "of_steps": seconds}


def grown(axis: str, values: list[int], seconds: list[float]) -> dict[str, Any]:
    """Return what a row of cells says: seconds per image by value, and how they grow.

    `attack steps`: a + b steps by least squares, and the largest relative distance of a cell from that line.
    `width`: the exponent between the last two. `processes`: the share of the ideal speed-up. `batch`: how many
    times as dear an image is in the smallest batch as in the largest.
    """
    found: dict[str, Any] = {"seconds_per_image": dict(zip(map(str, values), seconds, strict=True))}
    if len(values) < 2:
        return found
    if axis == "steps":
        b, a = np.polyfit(values, seconds, 1)
        apart = max(abs(a + b * v - s) / s for v, s in zip(values, seconds, strict=True))
        return {**found, "fixed": float(a), "per_step": float(b), "apart": float(apart)}
    if axis == "width":
        slope = np.log(seconds[-1] / seconds[-2]) / np.log(values[-1] / values[-2])
        return {**found, "exponent": float(slope)}
    ratio = seconds[0] / seconds[-1]
    return (
        {**found, "efficiency": ratio * values[0] / values[-1]}
        if axis == "processes"
        else {**found, "ratio": ratio}
    )


def plot(rows: dict[str, dict[str, float]], label: str) -> Plot:
    """Draw milliseconds per image against each axis, both logarithmic, beside growth in proportion."""

    def paint(figure: Figure) -> None:
        for place, (axis, row) in enumerate(rows.items()):
            axes = figure.add_subplot((len(rows) + 1) // 2, 2, place + 1)
            x, y = [int(value) for value in row], [1000 * seconds for seconds in row.values()]
            power = {"batch": 0, "processes": -1, "width": 2, "steps": 1}[axis]
            ideal = [y[-1] * (value / x[-1]) ** power for value in x]
            axes.plot(x, ideal, color=FOREGROUND, linewidth=0.9, linestyle=(0, (5, 3)))
            axes.plot(x, y, color=PALETTE[place], marker=MARKERS[place], markersize=5, linewidth=1.5)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xticks(x, [str(value) for value in x])
            axes.set_xticks([], minor=True)
            axes.set_xlabel(TITLES[axis])
            axes.set_ylabel("ms per image")
            low, high = min(y) / 1.6, max(y) * 1.6  # so wide that noise does not look like growth
            ticks = [m * 10.0**e for e in range(-3, 6) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
            axes.set_ylim(low, high)
            axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_yticks([], minor=True)

    return Plot("scaling", label, (6.0, 2.3 * ((len(rows) + 1) // 2)), paint)


def main() -> None:
    """Measure what is missing, and write what it says and its plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", default=list(VALUES), choices=list(VALUES))
    parser.add_argument("--values", nargs="+", type=int, help="other values, of every axis asked for, rising")
    parser.add_argument("--images", default="32x32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/scaling.json"))
    parser.add_argument("--one", nargs=len(BASE), type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    height, width = map(int, arguments.images.split("x"))
    if arguments.one:
        one((height, width), arguments.repeats, *arguments.one)
        return
    cells = Cells(arguments.out, f"Seconds per image of a PGD training step, ResNet-20; base: {BASE}", timed=True)
    growth: dict[str, Any] = {}
    for axis in arguments.axes:
        values, seconds = arguments.values or VALUES[axis], []
        for value in values:
            what = {**BASE, axis: value}
            name = ", ".join([arguments.images, *(f"{key} {number}" for key, number in what.items())])
            seconds.append(cells.get(name, partial(measured, arguments, what))["seconds_per_image"])
        growth[axis] = grown(axis, values, seconds)
        cells.write(growth=growth)
        print(
            f"{axis}: " + ", ".join(f"{v}: {1000 * s:.2f} ms" for v, s in zip(values, seconds, strict=True)),
            flush=True,
        )
    rows = {axis: row["seconds_per_image"] for axis, row in growth.items()}
    label = "Time per image of a robust training step. Dashed: in proportion, from the last point"
    write_text(arguments.out.with_suffix(".svg"), plot(rows, label).svg())


if __name__ == "__main__":
    main()
