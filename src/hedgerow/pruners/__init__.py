"""Pruners: which connections live; one published method a file."""

from hedgerow.pruners.base import PRUNERS, Progress, Pruner
from hedgerow.registry import import_folder

import_folder(__name__, list(__path__))

from hedgerow.pruners.fixed import Dense, FixedMask  # noqa: E402
from hedgerow.pruners.hydra import Hydra  # noqa: E402
from hedgerow.pruners.magnitude import Magnitude  # noqa: E402

__all__ = ["PRUNERS", "Dense", "FixedMask", "Hydra", "Magnitude", "Progress", "Pruner"]
