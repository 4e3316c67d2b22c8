"""Synthetic run folders, complete and small."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import yaml

from hedgerow.files import write_tensors
from hedgerow.result import (
    AtEps,
    AtRadius,
    Certification,
    Cost,
    Evaluation,
    LayerCount,
    LayerLoss,
    Measure,
    PhaseRecord,
    Result,
    Sensitivity,
    SparsityCount,
)

CLASSES = ["airplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
LAYERS = {
    "features.0.conv": [32, 3, 3, 3],
    "features.3.conv": [64, 32, 3, 3],
    "features.6.conv": [128, 64, 3, 3],
    "classifier.linear": [10, 128],
}
HOW = {
    "clean": "no attack",
    "pgd": "PGD-50, 5 restarts, eps 8/255 linf",
    "autoattack": "AutoAttack standard, eps 8/255 linf",
    "worst_case": "an image counts only if no attack broke it, eps 8/255 linf",
}
N = 360


def measure(correct: int, n: int, how: str) -> Measure:
    if n == 0:
        return Measure(correct=0, n=0, accuracy=0.0, low=0.0, high=1.0, how=how, seed=0)
    p, z = correct / n, 1.959964
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Measure(
        correct=correct,
        n=n,
        accuracy=p,
        low=max(0.0, centre - half),
        high=min(1.0, centre + half),
        how=how,
        seed=0,
    )


def evaluation(clean: int, pgd: int, robust: int, *, n: int = N) -> Evaluation:
    counts = {"clean": clean, "pgd": pgd, "autoattack": robust, "worst_case": robust}
    verdicts = (
        ["robust"] * robust
        + ["broken by autoattack"] * (pgd - robust)
        + ["broken by pgd"] * (clean - pgd)
        + ["misclassified"] * (n - clean)
    )
    return Evaluation(
        split="test",
        threat="linf, eps 8/255",
        examples=list(range(n)),
        measures={name: measure(c, n, HOW[name]) for name, c in counts.items()},
        verdicts=verdicts,
        checks={"more_steps_never_raise_accuracy": True, "unbounded_attack_reaches_zero": True},
    )


def result(name: str, *, method: str, sparsity: float, scored: Evaluation | None, **changes: Any) -> Result:
    totals = [math.prod(shape) for shape in LAYERS.values()]
    tilt = [min(1.0, (1 - sparsity) * factor) if sparsity else 1.0 for factor in (8.0, 1.6, 0.8, 3.0)]
    kept = [round(t * d) for t, d in zip(totals, tilt, strict=True)]
    layers = [
        LayerCount(name=n, shape=s, kept=k, total=t)
        for (n, s), k, t in zip(LAYERS.items(), kept, totals, strict=True)
    ]
    dense_bytes = 4 * sum(totals)
    values: dict[str, Any] = {
        "name": name,
        "command": f"hedgerow run recipes/{name}.yaml --seed 0",
        "recipe": {"name": name, "pruner": method, "sparsity": sparsity, "seed": 0},
        "dataset": "cifar10",
        "classes": CLASSES,
        "split_sizes": {"train": 45000, "validation": 5000, "test": 10000},
        "model": "cnn",
        "parameters": sum(totals) + 234,
        "method": method,
        "sparsity": SparsityCount(asked=sparsity, kept=sum(kept), prunable=sum(totals), layers=layers),
        "evaluation": scored,
        "phases": [
            PhaseRecord(
                name=phase,
                epochs=epochs,
                seconds=61.5 * epochs,
                images_per_second=8123.4,
                objective="trades",
                selected_epoch=epochs - 1,
            )
            for phase, epochs in (("pretrain", 20), ("prune", 10), ("finetune", 20))
        ],
        "bytes_on_disk": {
            "dense_float32": dense_bytes,
            "stored": dense_bytes if not sparsity else 6 * sum(kept),
            "compressed": dense_bytes - 999 if not sparsity else 4 * sum(kept),
        },
        "versions": {"hedgerow": "0.1.0", "torch": "2.9.0", "python": "3.11.9"},
        "machine": {"device": "cpu", "cores": 2, "memory_gb": 8},
    }
    return Result(**(values | changes))


def metrics_lines() -> list[str]:
    lines, step = [], 0
    for phase, epochs in (("pretrain", 20), ("prune", 10), ("finetune", 20)):
        for epoch in range(1, epochs + 1):
            step += 1
            grown = 1 - math.exp(-step / 9)
            row = {
                "phase": phase,
                "epoch": epoch,
                "epochs": epochs,
                "loss": 2.3 - 1.2 * grown + (0.3 if phase == "prune" else 0.0),
                "lr": 0.1,
                "train_accuracy": 0.8 * grown,
                "clean": 0.62 * grown,
                "robust": 0.38 * grown if epoch % 2 == 0 else None,
                "images_per_second": 8000.0,
                "seconds": 61.5,
            }
            lines.append(json.dumps(row))
    return lines


def write_gallery(path: Path, *, pictures: int = 14, side: int = 32, channels: int = 3) -> None:
    generator = torch.Generator().manual_seed(3)
    steps = torch.linspace(0, 1, side)
    base = torch.stack(
        [
            steps[:, None] * steps[None, :],
            steps[None, :].expand(side, side),
            steps.flip(0)[:, None].expand(side, side),
        ]
    )
    shade = torch.rand(pictures, channels, 1, 1, generator=generator)
    clean = (255 * (0.7 * base[:channels] * shade + 0.2)).to(torch.uint8)
    noise = 8 / 255 * torch.randn(clean.shape, generator=generator).sign()
    labels = torch.arange(pictures) % 10
    tensors = {
        "clean": clean,
        "adversarial": (clean / 255 + noise).clamp(0, 1),
        "labels": labels,
        "clean_predictions": torch.where(torch.arange(pictures) == 13, 1, labels),
        "adversarial_predictions": torch.where(torch.arange(pictures) % 3 == 0, labels, (labels + 2) % 10),
    }
    write_tensors(path, tensors, {"eps": "8/255", "norm": "linf", "attack": "PGD-50, 5 restarts"})


def full_result(name: str, *, sparsity: float) -> Result:
    """A pruned or dense run with everything that a page can show."""
    scored = evaluation(230, 160, 128) if not sparsity else evaluation(206, 130, 112)
    falling = {"2/255": 190, "4/255": 165, "8/255": 130, "16/255": 20}
    scored.curve = [AtEps(eps=eps, **measure(k, N, HOW["pgd"]).model_dump()) for eps, k in falling.items()]
    whole = measure(60, 100, "PGD-10, 1 restart")
    losses = [
        LayerLoss(layer=layer, removed=10 * i, measure=measure(60 - 13 * i, 100, whole.how))
        for i, layer in enumerate(LAYERS)
    ]
    cost = Cost(
        parameters=94_538,
        nonzeros=3_210,
        flops_dense=2_000_000,
        flops_sparse=90_000,
        flops_unknown=[],
        bytes_dense=378_152,
        machine={"cores": 2},
    )
    return result(
        name,
        method="hydra" if sparsity else "dense",
        sparsity=sparsity,
        scored=scored,
        sensitivity=Sensitivity(split="validation", share=0.5, whole=whole, layers=losses),
        cost=cost,
    )


def certification() -> Certification:
    curve = [
        AtRadius(radius=r, **measure(k, 50, "smoothing, sigma 0.25").model_dump())
        for r, k in ((0.0, 30), (0.25, 21), (0.5, 9))
    ]
    return Certification(
        method="smoothing",
        norm="l2",
        settings={},
        how="smoothing, sigma 0.25",
        network="abc",
        split="test",
        plain={"smoothed": measure(33, 50, "majority")},
        curve=curve,
        abstained=4,
        checks={"certified is not above plain": True},
        certificates=[],
    )


def write_run(folder: Path, record: Result, *, metrics: bool = True, gallery: bool = True) -> Path:
    folder.mkdir(parents=True)
    record.save(folder / "result.json")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(record.recipe))
    if metrics:
        (folder / "metrics.jsonl").write_text("\n".join(metrics_lines()) + "\n")
    if gallery:
        write_gallery(folder / "gallery.safetensors")
    return folder
