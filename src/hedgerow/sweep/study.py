"""The memory of a search: an Optuna study in a journal file; what it proposes depends on what it holds alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hedgerow.errors import MissingPackageError, RecipeError
from hedgerow.seeds import derive
from hedgerow.sweep.space import Choice, Space

JOURNAL = "study.journal"


class Study:
    """Trials by their number: proposed by a tree-structured Parzen estimator (arXiv 2304.11127), told of scores.

    Trial N is proposed by the estimator with a seed of its own, so that a search that was stopped proposes what
    it would have proposed anyway. Raises `MissingPackageError` without Optuna, `RecipeError` when the folder
    holds a search of another recipe or space.
    """

    def __init__(self, path: Path, *, about: Mapping[str, Any], space: Space, seed: int) -> None:
        try:
            import optuna
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend
        except ImportError as error:
            raise MissingPackageError("Optuna is not installed: pip install hedgerow[sweep]") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna: Any = optuna
        self.seed = seed
        path.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(path / JOURNAL)))
        self.study: Any = optuna.create_study(
            study_name="search", storage=storage, direction="maximize", load_if_exists=True
        )
        text = json.dumps({"recipe": dict(about), "space": {key: repr(one) for key, one in space.items()}})
        if self.study.user_attrs.get("about", text) != text:
            problem = "holds a search of another recipe, seed or space; give another --out"
            raise RecipeError(str(path), [problem])
        self.study.set_user_attr("about", text)
        self.distributions = {key: self._distribution(one) for key, one in space.items()}

    def _distribution(self, one: Any) -> Any:
        kinds = self.optuna.distributions
        if isinstance(one, Choice):
            return kinds.CategoricalDistribution(one.values)
        kind = kinds.IntDistribution if one.whole else kinds.FloatDistribution
        return kind(one.low, one.high, log=one.log)

    def propose(self) -> tuple[int, dict[str, Any]]:
        """Return the number of a new trial, from 0, and the values of its keys."""
        number = len(self.study.get_trials(deepcopy=False))
        seed = derive(self.seed, "trial", number) % 2**32
        self.study.sampler = self.optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        trial = self.study.ask(fixed_distributions=self.distributions)
        return trial.number, trial.params

    def tell(self, number: int, score: float | None) -> None:
        """Note the score of a trial; None: it failed."""
        if score is None:
            self.study.tell(number, state=self.optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(number, score)

    def unfinished(self) -> list[tuple[int, dict[str, Any]]]:
        """Return the trials that were proposed and not told of."""
        state = self.optuna.trial.TrialState.RUNNING
        return [(t.number, t.params) for t in self.study.get_trials(deepcopy=False, states=(state,))]

    def trials(self) -> list[tuple[int, dict[str, Any], float | None]]:
        """Return number, values and score of every trial; None for one that failed or is not over."""
        return [(t.number, t.params, t.value) for t in self.study.get_trials(deepcopy=False)]

    def best(self) -> int | None:
        """Return the first trial of the highest score; None when none has one."""
        scored = [(score, -number) for number, _, score in self.trials() if score is not None]
        return -max(scored)[1] if scored else None
