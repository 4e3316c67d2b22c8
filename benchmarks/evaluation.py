"""Our evaluator beside the AutoAttack package, and the fast protocol beside both, on finished runs, all in one go.

    python benchmarks/evaluation.py runs/demo/dense runs/demo/hydra-0.9 runs/demo/magnitude-0.9

For every run folder: the same test images and the same seed given to the package alone and to `evaluate` with PGD
as low as it goes and no integrity checks; whether the verdicts are the same for every example; processor seconds
of each; then the fast protocol on the same images. Writes results/benchmarks/evaluation.json and evaluation.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hedgerow.attacks import ATTACKS, Scene, crafting
from hedgerow.attacks.autoattack import describe
from hedgerow.evaluation import Protocol, evaluate
from hedgerow.evaluation.statistics import mcnemar
from hedgerow.files import read_tensors
from hedgerow.pipeline import dataset_of, model_of
from hedgerow.runfolder import RunFolder, load_weights
from hedgerow.seeds import derive
from hedgerow.threat import ThreatModel

OUT = Path(__file__).parents[1] / "results" / "benchmarks"


def measure(folder: Path, examples: int | None, batch_size: int) -> dict[str, Any]:
    """Return the record of one run folder's network."""
    run = RunFolder(folder)
    recipe = run.read_recipe()
    data = dataset_of(recipe)
    model = model_of(recipe, data)
    load_weights(model, run.model)
    test = data.test.take(examples, recipe.seed)
    x, y, threat = test.pixels(), test.labels, recipe.threat.build()
    batch = min(batch_size, len(x))
    with crafting(model) as inner:
        package, package_seconds = timed(lambda: by_package(inner, x, y, threat, data.num_classes, batch))
        scene = Scene(threat=threat, num_classes=data.num_classes, batch_size=batch)
        clean = inner(x).argmax(1) == y
        rapid, fast_seconds = timed(lambda: fast(inner, x, y, clean, scene))
    with tempfile.TemporaryDirectory() as scratch:
        protocol = Protocol(pgd_steps=1, pgd_restarts=1, batch_size=batch, integrity=0)
        ours, evaluator_seconds = timed(lambda: by_evaluator(model, x, y, threat, protocol, Path(scratch)))
    paired = mcnemar(rapid.tolist(), package.tolist())
    return {
        "network": folder.name,
        "dataset": recipe.data.source,
        "threat": str(threat),
        "n": len(x),
        "clean": int(clean.sum()),
        "package_robust": int(package.sum()),
        "evaluator_robust": int(ours.sum()),
        "different_verdicts": int((ours != package).sum()),
        "package_seconds": package_seconds,
        "evaluator_seconds": evaluator_seconds,
        "fast_robust": int(rapid.sum()),
        "fast_only_stands": paired.first_only,
        "autoattack_only_stands": paired.second_only,
        "fast_seconds": fast_seconds,
        "cost_ratio": package_seconds / fast_seconds,
        "difference_points": 100 * paired.difference,
        "package": describe(data.num_classes),
        "fast": ATTACKS["fast"]().describe(scene),
    }


def by_package(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, classes: int, batch: int) -> Tensor:
    """Return who stands under the package's own standard evaluation, batch by batch with the evaluator's seeds."""
    from pyautoattack import AutoAttack

    stands = []
    for number, (images, labels) in enumerate(zip(x.split(batch), y.split(batch), strict=True)):
        attack = AutoAttack(
            model,
            norm="Linf" if threat.norm == "linf" else "L2",
            eps=float(threat.eps),
            seed=derive(derive(0, "evaluate", number), "autoattack") % 2**31,
        )
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(classes, 10) - 1
        found, _ = attack.run_standard_evaluation(images, labels, batch_size=batch)
        stands.append(model(found).argmax(1) == labels)
    return torch.cat(stands)


def by_evaluator(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, protocol: Protocol, folder: Path
) -> Tensor:
    """Return who stands under AutoAttack as our evaluator runs and judges it."""
    evaluate(model, x, y, threat=threat, protocol=protocol, folder=folder)
    chunks = [read_tensors(file)[0] for file in sorted(folder.iterdir())]
    flags = [(chunk["clean"], chunk["autoattack_predictions"]) for chunk in chunks]
    clean, attacked = (torch.cat(part) for part in zip(*flags, strict=True))
    return (clean == y) & (attacked == y)


def fast(model: nn.Module, x: Tensor, y: Tensor, clean: Tensor, scene: Scene) -> Tensor:
    """Return who stands under the fast protocol."""
    found = x.clone()
    found[clean] = ATTACKS["fast"]()(model, x[clean], y[clean], scene)
    return model(found).argmax(1) == y


def timed(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    before = time.process_time()
    return work().detach(), time.process_time() - before


def markdown(records: list[dict[str, Any]]) -> str:
    """Return the table of the records, with how they were obtained."""
    head = ["network", "n", "clean", "AutoAttack: package", "evaluator", "other verdicts", "package, s"]
    head += ["evaluator, s", "fast", "only fast stands", "only AutoAttack stands", "fast, s", "times cheaper"]
    keys = ["network", "n", "clean", "package_robust", "evaluator_robust", "different_verdicts", "package_seconds"]
    keys += ["evaluator_seconds", "fast_robust", "fast_only_stands", "autoattack_only_stands", "fast_seconds"]
    keys += ["cost_ratio"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for record in records:
        values = [record[key] for key in keys]
        cells = [f"{value:.1f}" if isinstance(value, float) else str(value) for value in values]
        lines.append(f"| {' | '.join(cells)} |")
    how = (
        f"{records[0]['package']}; {records[0]['fast']}. {records[0]['dataset']}, {records[0]['threat']}, seed 0."
    )
    return "\n".join([*lines, "", f"Counts of images, processor seconds of one thread. {how}"]) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--examples", type=int)
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for run in arguments.runs:
        found.append(measure(run, arguments.examples, arguments.batch_size))
        print(json.dumps(found[-1]), flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    machine = {"processor": platform.processor() or platform.machine(), "threads": 1, "torch": torch.__version__}
    text = json.dumps({"machine": machine, "networks": found}, indent=1) + "\n"
    (arguments.out / "evaluation.json").write_text(text, encoding="utf-8")
    (arguments.out / "evaluation.md").write_text(markdown(found), encoding="utf-8")
    print(markdown(found), end="")
