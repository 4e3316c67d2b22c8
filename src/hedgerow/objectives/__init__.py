"""Objectives: what to be robust against, as a training loss; one file each."""

from hedgerow.objectives.base import OBJECTIVES, Objective, Scalars
from hedgerow.registry import import_folder

import_folder(__name__, list(__path__))

from hedgerow.objectives.natural import Natural  # noqa: E402
from hedgerow.objectives.pgd_at import PGDAdversarialTraining  # noqa: E402
from hedgerow.objectives.trades import Trades  # noqa: E402

__all__ = ["OBJECTIVES", "Natural", "Objective", "PGDAdversarialTraining", "Scalars", "Trades"]
