"""What is known of a finished network before it is attacked: counts, sizes, versions, machine."""

from __future__ import annotations

import os
import platform
import zlib
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from hedgerow.data import Dataset
from hedgerow.pruners import PRUNERS, Pruner
from hedgerow.recipe import Recipe, construct, own_options
from hedgerow.result import LayerCount, PhaseRecord, Result, SparsityCount
from hedgerow.sparsity import count_nonzero, prunable_weights, total_count
from hedgerow.sparsity.granularity import WEIGHT
from hedgerow.training.precision import chosen_precision


def describe(
    recipe: Recipe,
    data: Dataset,
    model: nn.Module,
    records: list[PhaseRecord],
    *,
    weights: Path,
    command: str = "",
) -> Result:
    """Return everything but the evaluation that is known of a finished network; non-zeros are counted.

    `weights` is the file that holds it.
    """
    device = next(model.parameters()).device
    counts = count_nonzero(model)
    total = total_count(counts)
    shapes = {name: list(weight.dense.shape) for name, weight in prunable_weights(model).items()}
    return Result(
        name=recipe.name,
        command=command,
        recipe=recipe.dump(),
        dataset=data.label,
        classes=list(data.classes),
        split_sizes={name: len(split) for name, split in data.splits.items()},
        model=recipe.model.factory or recipe.model.name,
        parameters=sum(p.numel() for p in model.parameters()),
        method=recipe.pruning.method if recipe.pruning else "dense",
        sparsity=SparsityCount(
            asked=float(recipe.pruning.sparsity) if recipe.pruning else 0.0,
            granularity=granularity_of(recipe),
            kept=total.kept,
            prunable=total.total,
            layers=[
                LayerCount(name=name, shape=shapes[name], kept=c.kept, total=c.total) for name, c in counts.items()
            ],
        ),
        phases=records,
        bytes_on_disk=bytes_on_disk(weights),
        versions={
            "hedgerow": version("hedgerow"),
            "torch": torch.__version__,
            "pyautoattack": version("pyautoattack"),
            "python": platform.python_version(),
        },
        machine={
            "processor": platform.machine(),
            "cores": os.cpu_count() or 1,
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "training precision": chosen_precision(recipe.precision, device),
        },
    )


def granularity_of(recipe: Recipe) -> str:
    """Return what the recipe's method removes together, such as `weight` or `channel`."""
    if recipe.pruning is None:
        return WEIGHT.name
    pruner: Pruner = construct(PRUNERS[recipe.pruning.method], own_options(recipe.pruning), seed=recipe.seed)
    return pruner.granularity.name


def bytes_on_disk(path: Path) -> dict[str, int]:
    """Return the size of the stored float32 network with its zeros, and compressed losslessly (zlib)."""
    content = path.read_bytes()
    return {"dense float32": len(content), "zlib": len(zlib.compress(content, 6))}
