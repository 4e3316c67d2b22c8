"""Hedgerow prunes neural networks 10x to 100x, keeps them adversarially robust, and proves it.

The public names load on first use, so that `import hedgerow` and `hedgerow --help` are instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hedgerow.attacks import autoattack, fgsm, pgd
    from hedgerow.data import Dataset, load_dataset
    from hedgerow.errors import HedgerowError
    from hedgerow.evaluation import Protocol, evaluate
    from hedgerow.grid import run
    from hedgerow.models import Normalize, build_model
    from hedgerow.objectives import OBJECTIVES, Natural, PGDAdversarialTraining, Trades
    from hedgerow.pruners import PRUNERS, Dense, FixedMask, Hydra, Magnitude, Pruner
    from hedgerow.recipe import Recipe, load_recipe
    from hedgerow.report import write_report
    from hedgerow.result import Result, load_result
    from hedgerow.sparsity import Budget, bake, count_nonzero, shared_weights, total_count
    from hedgerow.threat import ThreatModel
    from hedgerow.training import Plan, Setting, train

__version__ = "0.1.0"

_HOMES = {
    "attacks": ("autoattack", "fgsm", "pgd"),
    "data": ("Dataset", "load_dataset"),
    "errors": ("HedgerowError",),
    "evaluation": ("Protocol", "evaluate"),
    "grid": ("run",),
    "models": ("Normalize", "build_model"),
    "objectives": ("OBJECTIVES", "Natural", "PGDAdversarialTraining", "Trades"),
    "pruners": ("PRUNERS", "Dense", "FixedMask", "Hydra", "Magnitude", "Pruner"),
    "recipe": ("Recipe", "load_recipe"),
    "report": ("write_report",),
    "result": ("Result", "load_result"),
    "sparsity": ("Budget", "bake", "count_nonzero", "shared_weights", "total_count"),
    "threat": ("ThreatModel",),
    "training": ("Plan", "Setting", "train"),
}
_HOME = {name: room for room, names in _HOMES.items() for name in names}

__all__ = [
    "OBJECTIVES",
    "PRUNERS",
    "Budget",
    "Dataset",
    "Dense",
    "FixedMask",
    "HedgerowError",
    "Hydra",
    "Magnitude",
    "Natural",
    "Normalize",
    "PGDAdversarialTraining",
    "Plan",
    "Protocol",
    "Pruner",
    "Recipe",
    "Result",
    "Setting",
    "ThreatModel",
    "Trades",
    "autoattack",
    "bake",
    "build_model",
    "count_nonzero",
    "evaluate",
    "fgsm",
    "load_dataset",
    "load_recipe",
    "load_result",
    "pgd",
    "run",
    "shared_weights",
    "total_count",
    "train",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hedgerow' has no attribute {name!r}")
    return getattr(importlib.import_module(f"hedgerow.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
