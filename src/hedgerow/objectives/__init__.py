"""Objectives: what to be robust against, as a training loss; one file each."""

from hedgerow.objectives.base import (
    OBJECTIVES,
    Objective,
    Scalars,
    replays_of,
    restore,
    state_of,
    tell_progress,
)
from hedgerow.registry import import_folder

import_folder(__name__, list(__path__))

from hedgerow.objectives.crown_ibp import CrownIBP  # noqa: E402
from hedgerow.objectives.fast_at import FastAdversarialTraining  # noqa: E402
from hedgerow.objectives.free_at import FreeAdversarialTraining  # noqa: E402
from hedgerow.objectives.ibp import IBP  # noqa: E402
from hedgerow.objectives.mart import Mart  # noqa: E402
from hedgerow.objectives.mixtrain import MixTrain  # noqa: E402
from hedgerow.objectives.natural import Natural  # noqa: E402
from hedgerow.objectives.pgd_at import PGDAdversarialTraining  # noqa: E402
from hedgerow.objectives.trades import Trades  # noqa: E402

__all__ = [
    "IBP",
    "OBJECTIVES",
    "CrownIBP",
    "FastAdversarialTraining",
    "FreeAdversarialTraining",
    "Mart",
    "MixTrain",
    "Natural",
    "Objective",
    "PGDAdversarialTraining",
    "Scalars",
    "Trades",
    "replays_of",
    "restore",
    "state_of",
    "tell_progress",
]
