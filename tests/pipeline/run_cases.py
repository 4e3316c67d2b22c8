"""A run of seconds, and what is needed to compare two."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from hedgerow.files import read_tensors
from hedgerow.recipe import Recipe, apply, parse_recipe

RAW: dict[str, Any] = {
    "name": "tiny",
    "seed": 1,
    "device": "cpu",
    "data": {"train_limit": 200, "validation": 40, "test_limit": 60, "augment": ["crop"]},
    "threat": {"eps": 0.1},
    "objective": {"name": "pgd-at", "steps": 2},
    "pruning": {"method": "hydra", "sparsity": 0.9},
    "phases": {
        "pretrain": {"epochs": 3, "lr": 0.1, "batch_size": 32},
        "prune": {"epochs": 2, "lr": 0.1, "batch_size": 32},
        "finetune": {"epochs": 2, "lr": 0.05, "batch_size": 32},
    },
    "evaluation": {"examples": 20, "pgd_steps": 2, "pgd_restarts": 1, "autoattack": False, "gallery": 4},
}


def recipe(**changes: Any) -> Recipe:
    """Return the tiny recipe with `phases__prune__epochs=1` changes made."""
    return parse_recipe(apply(copy.deepcopy(RAW), {key.replace("__", "."): v for key, v in changes.items()}))


def network(folder: Path) -> tuple[bytes, bytes]:
    """Return the bytes of the finished network and of its masks."""
    return (folder / "model.safetensors").read_bytes(), (folder / "masks.safetensors").read_bytes()


def nonzeros(folder: Path) -> tuple[int, int]:
    """Count the kept and all weights of two or more dimensions, from the file alone."""
    tensors, _ = read_tensors(folder / "model.safetensors")
    weights = [t for t in tensors.values() if t.dim() > 1 and t.numel() > 3]
    return sum(int((w != 0).sum()) for w in weights), sum(w.numel() for w in weights)


def files_of(folder: Path) -> dict[str, int]:
    """Return the time of change of every file in a folder that a finished run may not touch."""
    return {
        str(p.relative_to(folder)): p.stat().st_mtime_ns
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in (".lock", "report.html") and p.stem != "comparison"
    }
