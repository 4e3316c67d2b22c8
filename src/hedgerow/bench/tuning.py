"""Which settings that leave the method alone train a recipe fastest on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hedgerow.bench.measure import pruner_of, timed
from hedgerow.data import Dataset, steps_per_epoch
from hedgerow.pipeline import dataset_of, device_of
from hedgerow.recipe import Recipe, apply, parse_recipe
from hedgerow.training.compiling import why_not
from hedgerow.training.precision import native_bf16

Choice = dict[str, Any]
_TURNS = 2  # so that a machine that is busy for a while is unfair to no choice


@dataclass(frozen=True)
class Speed:
    """One choice of settings: seconds of a step, and how much longer the first of a phase takes."""

    text: str
    seconds: float
    start: float


@dataclass(frozen=True)
class Tuning:
    """The choices that were timed, the fastest step first; `steps` is how many the recipe's dearest phase takes.

    `remark` says why compiled networks are not among them, if they are not.
    """

    phase: str
    steps: int
    speeds: list[Speed]
    remark: str | None

    def total(self, speed: Speed) -> float:
        """Return the seconds of the whole phase, the start with it."""
        return speed.start + self.steps * speed.seconds

    @property
    def best(self) -> Speed:
        """The choice with which the whole phase is done first."""
        return min(self.speeds, key=self.total)


def tune(recipe: Recipe, *, steps: int = 3, tell: Callable[[str], None] | None = None) -> Tuning:
    """Time the recipe's dearest phase under each choice of settings that changes speed and not the method.

    Memory format and, where the machine multiplies bf16, precision, in turns; then the fastest of these again,
    compiled and not, in turns too. `start` is the longest first step less one of the others.
    """
    tell = tell or (lambda _: None)
    data, device = dataset_of(recipe), device_of(recipe)
    precisions = ["float32", *(["bf16"] if native_bf16(device) else [])]
    plain = [{"channels_last": last, "precision": kind} for kind in precisions for last in (False, True)]
    phase = "prune" if recipe.pruning is not None and pruner_of(recipe, "prune", None).learns else "pretrain"
    section = getattr(recipe.phases, phase)
    found: dict[str, Speed] = {}

    def race(choices: list[Choice]) -> None:
        for _ in range(_TURNS):
            for choice in choices:
                text = " ".join(f"--set {key}={str(value).lower()}" for key, value in choice.items())
                tell(f"{phase} {text} ...")
                now, before = _speed(recipe, text, choice, phase, data, steps), found.get(text)
                found[text] = now if before is None else _better(before, now)

    race([{**choice, "compile": False} for choice in plain])
    fastest = plain[min(range(len(plain)), key=lambda i: list(found.values())[i].seconds)]
    reason = "not with sync_bn: true" if recipe.sync_bn else why_not(device.type)
    if reason is None:
        race([{**fastest, "compile": compiled} for compiled in (False, True)])
    return Tuning(
        phase=phase,
        steps=section.epochs * steps_per_epoch(len(data.train), section.batch_size),
        speeds=sorted(found.values(), key=lambda speed: speed.seconds),
        remark=None if reason is None else f"compile: not tried ({reason})",
    )


def tune_lines(tuning: Tuning) -> list[str]:
    """Return what `tune` found, for a person."""
    first, best = tuning.speeds[0], tuning.best
    lines = [
        f"{speed.seconds * 1000:10.1f} ms a step  {first.seconds / speed.seconds:6.1%} of the fastest's speed  "
        f"{speed.start:6.1f} s to start  {speed.text}"
        for speed in tuning.speeds
    ]
    lines += [tuning.remark] if tuning.remark else []
    return [*lines, f"fastest here for {tuning.steps:,} steps of {tuning.phase}: {best.text}"]


def _speed(recipe: Recipe, text: str, choice: Choice, phase: str, data: Dataset, steps: int) -> Speed:
    changed = parse_recipe(apply(recipe.dump(), choice))
    clock = timed(changed, phase, getattr(changed.phases, phase), data, steps)
    seconds = clock.median()
    return Speed(text, seconds, max(0.0, clock.first() - seconds))


def _better(one: Speed, other: Speed) -> Speed:
    return Speed(one.text, min(one.seconds, other.seconds), max(one.start, other.start))
