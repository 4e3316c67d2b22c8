"""Whether networks trained in bf16 are as robust as those trained in float32, seed by seed.

    python benchmarks/precision.py                                      # digits, CIFAR-10 subset; seeds 0, 1, 2
    python benchmarks/precision.py --sets digits --seeds 3
    python benchmarks/precision.py --sets digits --seeds 2 --set phases.pretrain.epochs=1 --out /tmp/p.json

For every set a shipped recipe, shortened: pretraining, HYDRA and fine-tuning, once with `precision: float32` and
once with `bf16`, from the same seed, hence on the same images in the same order. The evaluation is in float32 for
both: clean accuracy, and PGD-50 with 2 restarts. A cell is one run; it is written when it is done, and the same
command goes on with those that are missing. The verdict of a set looks at the differences bf16 - float32 of every
seed: their mean and its 95 % interval (Student's t), the spread of float32 over seeds, and McNemar's test on the
images of all seeds, pooled. They agree `within seed noise` when the interval holds 0 and the mean difference is
no larger than that spread. Where bf16 is emulated this is slow, and no less true.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cells import Cell, Cells
from scipy.stats import t

from hedgerow.arguments import parse_changes
from hedgerow.errors import HedgerowError
from hedgerow.evaluation.statistics import mcnemar
from hedgerow.pipeline import run_one
from hedgerow.recipe import load_recipe

EVALUATION = {"evaluation.autoattack": False, "evaluation.pgd_restarts": 2, "evaluation.integrity": 0, "grid": []}
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "digits": (
        "digits-demo",
        {"phases.pretrain.epochs": 30, "phases.prune.epochs": 10, "phases.finetune.epochs": 10},
    ),
    "cifar10": (
        "cifar10-folder-resnet20-hydra",
        {
            "data.train_limit": 5000,
            "phases.pretrain.epochs": 8,
            "phases.prune.epochs": 3,
            "phases.finetune.epochs": 3,
            "evaluation.examples": 500,
        },
    ),
}
PRECISIONS = ("float32", "bf16")


def trained(name: str, precision: str, seed: int, changes: dict[str, Any]) -> Cell:
    """Carry one run out, in a folder that is thrown away; return its accuracies and who stands under PGD."""
    source, settings = SETS[name]
    recipe = load_recipe(source, {**settings, **EVALUATION, **changes, "precision": precision, "seed": seed})
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = run_one(recipe, Path(folder) / "run")
    if result.evaluation is None:
        raise HedgerowError(f"{recipe.name}: the run has no evaluation to compare")
    measures = result.evaluation.measures
    return {
        "clean": measures["clean"].accuracy,
        "robust": measures["pgd"].accuracy,
        "n": measures["pgd"].n,
        "how": measures["pgd"].how,
        "stands": "".join("1" if verdict == "robust" else "0" for verdict in result.evaluation.verdicts),
        "seconds": time.monotonic() - start,
    }


def verdict(pairs: list[tuple[Cell, Cell]]) -> dict[str, Any]:
    """Return what the runs in float32 and bf16, one pair per seed, say of each other."""
    found: dict[str, Any] = {"seeds": len(pairs)}
    for i, precision in enumerate(PRECISIONS):
        for measure in ("clean", "robust"):
            values = [pair[i][measure] for pair in pairs]
            spread = statistics.stdev(values) if len(values) > 1 else None
            found[f"{measure} {precision}"] = {"mean": statistics.fmean(values), "spread": spread}
    differences = [b["robust"] - a["robust"] for a, b in pairs]
    flags = [[mark == "1" for pair in pairs for mark in pair[i]["stands"]] for i in (1, 0)]
    mean = statistics.fmean(differences)
    found |= {"differences": differences, "difference": mean, "mcnemar_p": mcnemar(*flags).p}
    if len(pairs) < 2:
        return {**found, "verdict": "one seed says nothing of seed noise"}
    half = float(t.ppf(0.975, len(pairs) - 1)) * statistics.stdev(differences) / math.sqrt(len(pairs))
    same = abs(mean) <= half and abs(mean) <= found["robust float32"]["spread"]
    return {
        **found,
        "interval": [mean - half, mean + half],
        "verdict": f"{'' if same else 'not '}within seed noise",
    }


def main() -> None:
    """Run what is missing, and print and write the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/precision.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    changes = parse_changes(arguments.changes)
    cells = Cells(arguments.out, " ".join((__doc__ or "").split("\n\n")[-1].split()))
    verdicts = dict(cells.record.get("verdicts", {}))
    for name in arguments.sets:
        label = " ".join([name, *arguments.changes])
        pairs = []
        for seed in range(arguments.seeds):
            run = {
                kind: cells.get(f"{label}, {kind}, seed {seed}", partial(trained, name, kind, seed, changes))
                for kind in PRECISIONS
            }
            pairs.append((run["float32"], run["bf16"]))
            verdicts[label] = verdict(pairs)
            cells.write(verdicts=verdicts)
        found = verdicts[label]
        means = ", ".join(f"{kind} {found[f'robust {kind}']['mean']:.1%}" for kind in PRECISIONS)
        print(f"{label}: robust accuracy {means}; {found['verdict']}", flush=True)


if __name__ == "__main__":
    main()
