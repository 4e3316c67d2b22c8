"""AutoAttack (Croce & Hein, 2003.01690) and its parts, through its own package; its side effects are contained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Literal

import torch
from torch import Tensor, nn

from hedgerow.attacks.crafting import check_images, crafting
from hedgerow.errors import DataError, ModelError
from hedgerow.seeds import derive
from hedgerow.stochastic import Averaged, averaged
from hedgerow.threat import ThreatModel

_STANDARD_CLASSES = 10
_DLR_TARGETED_CLASSES = 4
_DLR_CLASSES = 3

PackageAttack = Literal["apgd-ce", "fab", "fab-t", "square"]


def describe(num_classes: int, *, stochastic: bool = False) -> str:
    """Return how the attack runs for this many classes; says when it cannot be the standard protocol."""
    package = f"pyautoattack {version('pyautoattack')}"
    if stochastic and num_classes >= _DLR_CLASSES:
        return f"AutoAttack rand ({package}: APGD-CE, APGD-DLR, EOT 20)"
    if stochastic:
        return f"APGD-CE with EOT 20 ({package}); not AutoAttack rand, whose APGD-DLR needs 3 classes"
    if num_classes >= _STANDARD_CLASSES:
        return f"AutoAttack standard ({package}: APGD-CE, APGD-T, FAB-T, Square)"
    if num_classes >= _DLR_TARGETED_CLASSES:
        return f"AutoAttack standard with {num_classes - 1} target classes ({package})"
    return f"APGD-CE, FAB-T, Square ({package}); not standard AutoAttack, whose APGD-T needs 4 classes"


def autoattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    num_classes: int,
    seed: int = 0,
    batch_size: int = 500,
    tell: Callable[[str], None] | None = None,
) -> Tensor:
    """Return `[N, ...]` adversarial images of the standard protocol; unbroken examples come back unchanged.

    A stochastic model (one that says so, or `Averaged`) gets the protocol `rand`: gradients are means over the
    protocol's 20 draws, and an example is broken where the mean logits of the model's own draws say so.
    `x` is `[N, C, H, W]` float32 in [0,1], `y` `[N]` int64 in 0..num_classes-1; `tell` hears of each attack as it
    starts. The global random state, the model's mode, parameters and buffers are as before afterwards. Raises
    `DataError` for bad input.
    """
    return _by_package(
        model, x, y, threat=threat, num_classes=num_classes, seed=seed, batch_size=batch_size, tell=tell
    )


def package_attack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    name: PackageAttack,
    threat: ThreatModel,
    num_classes: int,
    seed: int = 0,
    batch_size: int = 500,
    queries: int | None = None,
) -> Tensor:
    """Return `[N, ...]` images as `autoattack` does, of one of its attacks with the settings that it has there.

    `fab` and `fab-t` (1907.02044) look for the smallest change, to any class or to each of at most nine, which
    counts where it is in the ball; `square` (1912.00049) asks for answers alone, 5000 times, or as often as
    `queries` says, with its schedule shortened alike. FAB needs the same gradient each time, so that a stochastic
    model is refused with `ModelError`.
    """
    return _by_package(
        model,
        x,
        y,
        threat=threat,
        num_classes=num_classes,
        seed=seed,
        batch_size=batch_size,
        only=[name],
        queries=queries,
    )


def _by_package(  # noqa: PLR0913
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    num_classes: int,
    seed: int,
    batch_size: int,
    only: Sequence[PackageAttack] = (),
    queries: int | None = None,
    tell: Callable[[str], None] | None = None,
) -> Tensor:
    check_images(x, y, num_classes)
    if x.dtype != torch.float32:
        raise DataError(f"images are {x.dtype}; AutoAttack runs in float32")
    if num_classes < 2:
        raise DataError("AutoAttack needs at least two classes")
    if not len(x):
        return x.clone()
    from pyautoattack import AutoAttack

    found: Tensor
    with crafting(model) as inner, torch.random.fork_rng(), _contained(tell):
        judge = averaged(inner, seed=seed)
        rand = isinstance(judge, Averaged)
        attack = AutoAttack(
            judge,
            norm="Linf" if threat.norm == "linf" else "L2",
            eps=float(threat.eps),
            version="rand" if rand else "standard",
            device=x.device,
            seed=derive(seed, "autoattack") % 2**31,
        )
        targets = min(num_classes, _STANDARD_CLASSES) - 1
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
        if queries is not None:
            attack.square.n_queries, attack.square.rescale_schedule = queries, True
        chosen = only or _instead(num_classes, rand=rand)
        if rand and any(name.startswith("fab") for name in chosen):
            raise ModelError(
                "FAB needs the same gradient each time, and this model is stochastic; use fast or square"
            )
        if chosen:
            attack.attacks_to_run = list(chosen)
        found, _ = attack.run_standard_evaluation(x, y, batch_size=batch_size)
    return found


def _instead(num_classes: int, *, rand: bool) -> list[PackageAttack]:
    """Return what can be run for so few classes that the protocol cannot; nothing where it can."""
    if rand:
        return ["apgd-ce"] if num_classes < _DLR_CLASSES else []
    return ["apgd-ce", "fab-t", "square"] if num_classes < _DLR_TARGETED_CLASSES else []


class _Forward(logging.Handler):
    """Hands the package's own words on its progress to a listener."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.DEBUG)
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith("running "):
            self.tell(f"AutoAttack: {message}")


@contextmanager
def _contained(tell: Callable[[str], None] | None) -> Iterator[None]:
    # The package speaks through a logger: batches at debug level, advice as warnings. Its listener gets the
    # former when there is one; the evaluator has its own words for the rest.
    logger = logging.getLogger("auto-attack")
    before = logger.level, logger.propagate
    handler = _Forward(tell) if tell else logging.NullHandler()
    logger.setLevel(logging.DEBUG if tell else logging.ERROR)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
