"""What an attack is to the evaluator, and the table of them by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor, nn

from hedgerow.registry import Registry
from hedgerow.threat import Norm, ThreatModel


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is the same for every attack on a batch; `stochastic`: the model answers differently each time."""

    threat: ThreatModel
    num_classes: int
    seed: int = 0
    batch_size: int = 500
    stochastic: bool = False


class Attack(Protocol):
    """One attack with its settings. `norms` are those it is made for; its `repr` must tell its settings.

    The images it returns lie in the ball and in [0,1]; whether one is broken, the caller's own forward says. One
    that needs no gradients has an attribute `by_answers` that is True, and is run on files that give none.
    """

    norms: ClassVar[tuple[Norm, ...]]

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, scene: Scene) -> Tensor:
        """Return `[N, ...]` images for `x` `[N, ...]` and labels `[N]`, misclassified where it succeeded."""
        ...

    def describe(self, scene: Scene) -> str:
        """Return what is run, in one line: the words that stand beside the number."""
        ...


ATTACKS: Registry[type[Attack]] = Registry("attack")


def by_answers(attack: object) -> bool:
    """Return whether an attack says that it needs a model's answers alone."""
    return getattr(attack, "by_answers", False) is True


def check_counts(**counts: int) -> None:
    """Raise `ValueError` for a count below 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; it is a count and must be 1 or more")
