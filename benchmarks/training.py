"""How much faster a robust training step is here than as a textbook has it, and what it takes of memory.

    python benchmarks/training.py                    # ResNet-18, VGG-16-BN, WRN-28-4 at batch 128 -> results/
    python benchmarks/training.py --models resnet18 --batch 64            # a grid of its own in the same file
    python benchmarks/training.py --models resnet20 --batch 16 --images 8x8 --out /tmp/t.json

Two steps: pruning by HYDRA with TRADES-10, and fine-tuning under a mask with PGD-10, both with SGD and 5 % of the
weights (`--density`). First
both sides' losses and gradients of one batch in float64 are compared; a benchmark of unequal work fails. Then each
side runs `--steps` steps in a process of its own, after a step on a few images, in turns, `--rounds` times; the
median counts. Memory is what such a process grew by at its peak after all code was loaded, by a step of a small
network, and the network and the images were there.
Last, every convolution of our PGD-10 step on all weights is timed alone: `share_of_convolutions` is their sum over
the step. Ours is the product's training loop as `hedgerow run` calls it, in float32 and, where the machine
multiplies bf16, in bf16; each with attacks on the masked network, `dense`, with attacks on its non-zeros, and
so with the parts of the training pass computed again (`recompute: true`). The
textbook is `benchmarks/textbook.py`. Images are random: speed does not depend on what they show.
A cell is one process; it is written when it is done, and the same command goes on with those that are missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cells import Cell, Cells, forget_peak, held
from textbook import EPS, adversarial_training, masked_copy, scored_copy, trades
from torch import Tensor, nn

from hedgerow.attacks import SparseCrafting
from hedgerow.bench.counting import Convolutions
from hedgerow.bench.measure import Begin, Clock
from hedgerow.data import Split
from hedgerow.models import build_model
from hedgerow.objectives import OBJECTIVES
from hedgerow.pruners import PRUNERS, FixedMask
from hedgerow.sparsity import Budget, attach_masks, prunable_weights, shared_weights, topk_mask
from hedgerow.threat import ThreatModel
from hedgerow.training import Plan, Setting, train
from hedgerow.training.precision import FABRIC, Precision, native_bf16

DENSITY = "0.05"
WORK = {"prune": "hydra, trades-10", "finetune": "mask, pgd-10"}
SIDES: dict[str, tuple[Precision, SparseCrafting, bool]] = {
    f"{precision}{words}": (precision, crafting, recompute)
    for precision in ("float32", "bf16")
    for words, crafting, recompute in ((" dense", "off", False), ("", "on", False), (" recompute", "on", True))
}
LR = 0.01
SMALL = "resnet20"
WARM = 8  # images of the step that comes before those that count
ALONE = "convolutions alone"


def network(name: str, size: tuple[int, int]) -> nn.Module:
    """Return the network that both sides train, from one seed."""
    return build_model(name, num_classes=10, channels=3, image_size=size, mean=[0.5] * 3, std=[0.25] * 3, seed=0)


def images(count: int, size: tuple[int, int]) -> Split:
    """Return random images and labels."""
    dice = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, *size), generator=dice, dtype=torch.uint8)
    return Split(pixels, torch.randint(0, 10, (count,), generator=dice))


def objective(work: str) -> Any:
    """Return our objective for one kind of work, with the textbook's settings."""
    kind = "trades" if work == "prune" else "pgd-at"
    return OBJECTIVES[kind](ThreatModel("linf", "8/255"), steps=10, step_size="2/255")


def counts(model: nn.Module, density: str) -> dict[str, int]:
    """Return how many weights every layer keeps."""
    dense = {name: weight.dense.detach() for name, weight in prunable_weights(model).items()}
    return Budget(1 - Fraction(density)).keep(dense)


def masks_of(model: nn.Module, density: str) -> dict[str, Tensor]:
    """Return masks that keep each layer's largest weights."""
    keep = counts(model, density)
    return {n: topk_mask(w.dense.detach().abs(), keep[n]) for n, w in prunable_weights(model).items()}


def ours(
    work: str, model: nn.Module, split: Split, batch: int, density: str, side: str, clock: Clock | None = None
) -> list[float]:
    """Return seconds per step of the product's loop."""
    clock, budget, (precision, crafting, recompute) = clock or Clock(), Budget(1 - Fraction(density)), SIDES[side]
    pruner = PRUNERS["hydra"]() if work == "prune" else FixedMask(masks_of(model, density))
    setting = Setting(
        precision=FABRIC[precision],
        channels_last=True,
        sparse_crafting=crafting,
        recompute=recompute,
        listeners=(clock,),
    )
    plan = Plan(epochs=1, lr=LR, batch_size=batch, select="last", augment=("crop", "flip"))
    train(model, split, objective(work), plan=plan, pruner=pruner, budget=budget, setting=setting)
    return _steps(clock)


def textbook(work: str, model: nn.Module, split: Split, batch: int, density: str) -> list[float]:
    """Return seconds per step of the textbook's loop."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    student = (scored_copy if work == "prune" else masked_copy)(model, list(counts(model, density).values())).to(
        device
    )
    learnt = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learnt, lr=LR, momentum=0.9, weight_decay=5e-4)
    clock = Clock()
    clock.start()
    for start in range(0, len(split), batch):
        x = split.images[start : start + batch].float().div(255).to(device)
        y = split.labels[start : start + batch].to(device)
        loss = _textbook_loss(work, student, x, y, torch.Generator(device).manual_seed(start))
        loss.backward()
        optimizer.step()
        loss.item()
        clock.step()
    return _steps(clock)


def _steps(clock: Clock) -> list[float]:
    return [clock.first(), *clock.seconds()]


def _textbook_loss(work: str, model: nn.Module, x: Tensor, y: Tensor, dice: torch.Generator) -> Tensor:
    if work == "prune":
        return trades(model, x, y, torch.empty_like(x).normal_(generator=dice))
    return adversarial_training(model, x, y, torch.empty_like(x).uniform_(-1, 1, generator=dice))


def equality(work: str, name: str, size: tuple[int, int], batch: int, density: str) -> dict[str, float]:
    """Return how far both sides' losses and gradients of one batch are apart; raise if it is not the same work.

    In float64: in float32 the rounding of either side turns some signs of an attack's gradients.
    """
    split = images(batch, size)
    x, y = split.images.double().div(255), split.labels
    keep = list(counts(network(name, size), density).values())
    reference = (scored_copy if work == "prune" else masked_copy)(network(name, size), keep).double()
    expected = _textbook_loss(work, reference, x, y, torch.Generator().manual_seed(1))
    expected.backward()
    model = network(name, size).double()
    if work == "prune":
        pruner = PRUNERS["hydra"]()
        pruner.attach(model, Budget(1 - Fraction(density)))
        got = [scored.scores for scored in pruner.scored.values()]
        want = [p for n, p in reference.named_parameters() if n.endswith("scores")]
    else:
        attach_masks(model, masks_of(model, density))
        got = [weight.dense for weight in prunable_weights(model).values()]
        want = [p for n, p in reference.named_parameters() if p.dim() > 1]
    model.train()
    with shared_weights(model):
        loss, _ = objective(work)(model, x, y, torch.Generator().manual_seed(1))
        loss.backward()
    a = torch.cat([p.grad.flatten() for p in got if p.grad is not None])
    b = torch.cat([p.grad.flatten() for p in want if p.grad is not None])
    apart = abs(loss.item() - expected.item()) / abs(expected.item())
    cosine = torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0).item()
    if apart > 1e-8 or cosine < 1 - 1e-8:
        raise SystemExit(
            f"{work} on {name}: not the same work: loss off by {apart:.1e}, gradients' cosine {cosine}"
        )
    return {"loss_relative_difference": apart, "gradient_cosine": cosine}


def one(arguments: argparse.Namespace) -> None:
    """Run one side of one kind of work in this process; print its times and its memory as JSON."""
    torch.set_num_threads(arguments.threads)
    size, batch, density = _size(arguments.images), arguments.batch, arguments.density
    name, work, side = arguments.one
    model, split = network(name, size), images(batch * arguments.steps, size)
    if side == ALONE:
        with Convolutions() as convolutions:
            some = split.select(torch.arange(batch))
            ours(work, model, some, batch, density, "float32 dense", Begin(convolutions.clear))
        print(json.dumps({"seconds": [convolutions.alone()], "calls": sum(convolutions.seen.values())}))
        return
    run = textbook if side == "textbook" else partial(ours, side=side)
    run(work, network(SMALL, size), images(2, size), 2, density)  # loads and compiles what a step takes of code
    before = held("VmRSS")
    run(work, network(name, size), images(WARM, size), WARM, density)
    forget_peak()
    seconds = run(work, model, split, batch, density)
    grown = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else held("VmHWM") - before
    print(json.dumps({"seconds": seconds, "peak_bytes": grown}))


def in_a_process(arguments: argparse.Namespace, name: str, work: str, side: str) -> Cell:
    """Return what `one` measures in a process of its own."""
    call = [sys.executable, __file__, "--one", name, work, side]
    for option in ("batch", "steps", "threads", "images", "density"):
        call += [f"--{option}", str(getattr(arguments, option))]
    out = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out.splitlines()[-1])  # type: ignore[no-any-return]


def measured(arguments: argparse.Namespace, cells: Cells, name: str, work: str, sides: list[str]) -> Cell:
    """Run all sides in turns and return their medians and what the textbook takes as a multiple of ours."""
    keys = ("density", "batch", "images", "threads", "steps")
    settings = ", ".join([name, work, *(f"{key} {getattr(arguments, key)}" for key in keys)])
    few = min(arguments.batch, 16)
    same = cells.get(
        f"{settings}, equality", partial(equality, work, name, _size(arguments.images), few, arguments.density)
    )
    runs: dict[str, list[Cell]] = {side: [] for side in sides}
    for number in range(arguments.rounds):
        for side in sides:
            run = partial(in_a_process, arguments, name, work, side)
            runs[side].append(cells.get(f"{settings}, {side}, round {number + 1}", run))
    seconds = {s: statistics.median([t for run in found for t in run["seconds"]]) for s, found in runs.items()}
    peak = {side: max(run["peak_bytes"] for run in found) for side, found in runs.items()}
    summary = {
        **{key: same[key] for key in ("loss_relative_difference", "gradient_cosine")},
        "seconds_per_step": seconds,
        "peak_bytes": peak,
        "times_faster": {s: seconds["textbook"] / seconds[s] for s in sides[1:]},
        "memory_share": {s: peak[s] / peak["textbook"] for s in sides[1:]},
    }
    if work == "finetune":
        alone = cells.get(f"{settings}, {ALONE}", partial(in_a_process, arguments, name, work, ALONE))
        summary["share_of_convolutions"] = alone["seconds"][0] / seconds["float32 dense"]
    cells.write(summary={**cells.record.get("summary", {}), settings: summary})
    return summary


def _size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


def main() -> None:
    """Measure everything asked for, print it line by line, and write it after each line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet18", "vgg16-bn", "wrn-28-4"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--images", default="32x32")
    parser.add_argument("--density", default=DENSITY, help="share of the weights that are kept")
    parser.add_argument("--steps", type=int, default=1, help="steps that count in a process")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/training.json"))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments)
        return
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    native = native_bf16(device)
    sides = ["textbook", *(side for side, (precision, *_) in SIDES.items() if native or precision == "float32")]
    work = "; ".join(f"{kind}: {what}" for kind, what in WORK.items())
    cells = Cells(arguments.out, f"One optimiser step at eps {EPS:.5f}. {work}", timed=True)
    for name in arguments.models:
        for kind in WORK:
            found = measured(arguments, cells, name, kind, sides)
            for side in sides[1:]:
                times, memory = found["times_faster"][side], found["memory_share"][side]
                print(f"{name} {kind} {side}: {times:.1f} times as fast, {memory:.0%} of the memory", flush=True)
            if "share_of_convolutions" in found:
                print(
                    f"{name} {kind}: {found['share_of_convolutions']:.0%} of its convolutions' speed", flush=True
                )


if __name__ == "__main__":
    main()
