"""Errors a user can act on: each says what is wrong, where, and what to do."""

from __future__ import annotations


class HedgerowError(Exception):
    """Base of every error raised on purpose; the command line prints it without a traceback."""


class RecipeError(HedgerowError):
    """A recipe has one or more problems; all of them are listed in `problems`, in file order."""

    def __init__(self, where: str, problems: list[str]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{where}: {count}", *(f"  - {p}" for p in problems)]))


class DataError(HedgerowError):
    """Images or labels are missing, broken, or outside their range."""


class ModelError(HedgerowError):
    """A model cannot be built, loaded or pruned as asked."""


class CheckpointError(HedgerowError):
    """A saved file is missing, cut short, or belongs to another run."""


class CertificationError(HedgerowError):
    """A certificate cannot be given: settings out of range, or a model that the proof does not cover."""


class NumericsError(HedgerowError):
    """Training produced a value that is not a number; says where, and which checkpoint is still good."""


class MissingPackageError(HedgerowError):
    """Something was asked for that needs a package which is not installed."""


class TeamError(HedgerowError):
    """The processes of a run could not be started, or one of them has ended."""
