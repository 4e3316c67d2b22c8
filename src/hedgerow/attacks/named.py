"""The attacks by name, each with its settings: thin classes over the functions that do the work."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import ClassVar, Literal

from torch import Tensor, nn

from hedgerow.attacks.apgd import apgd, apgd_targeted, targeted_words
from hedgerow.attacks.autoattack import PackageAttack, package_attack
from hedgerow.attacks.base import ATTACKS, Scene, check_counts
from hedgerow.attacks.carlini_wagner import carlini_wagner, within
from hedgerow.attacks.fast import describe_fast, fast
from hedgerow.attacks.fgsm import fgsm
from hedgerow.attacks.ifgsm import ifgsm
from hedgerow.threat import Norm

_BOTH: tuple[Norm, ...] = ("linf", "l2")


@ATTACKS.register("fgsm")
@dataclass(frozen=True, kw_only=True)
class Fgsm:
    """One full step along the gradient's sign (1412.6572)."""

    norms: ClassVar[tuple[Norm, ...]] = _BOTH

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, scene: Scene) -> Tensor:
        """Return the images one step of eps away."""
        return fgsm(model, x, y, threat=scene.threat)

    def describe(self, scene: Scene) -> str:
        """Return what is run."""
        return "FGSM"


@ATTACKS.register("ifgsm")
@dataclass(frozen=True, kw_only=True)
class Ifgsm:
    """Small signed steps from the image itself, the last point counts (1607.02533)."""

    steps: int = 20
    step_size: float | None = None
    norms: ClassVar[tuple[Norm, ...]] = _BOTH

    def __post_init__(self) -> None:
        check_counts(steps=self.steps)
        if self.step_size is not None and not self.step_size > 0:
            raise ValueError(f"step_size is {self.step_size}; it is in pixel units and must be above 0")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, scene: Scene) -> Tensor:
        """Return the images after the last step."""
        return ifgsm(model, x, y, threat=scene.threat, steps=self.steps, step_size=self.step_size)

    def describe(self, scene: Scene) -> str:
        """Return what is run."""
        size = "eps/4" if self.step_size is None else f"{self.step_size:g}"
        return f"IFGSM-{self.steps}, step {size}, no random start"


@dataclass(frozen=True, kw_only=True)
class _Apgd:
    steps: int = 100
    restarts: int = 1
    loss: ClassVar[Literal["ce", "dlr"]]
    norms: ClassVar[tuple[Norm, ...]] = _BOTH

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, restarts=self.restarts)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, scene: Scene) -> Tensor:
        """Return the images found."""
        options = {"steps": self.steps, "restarts": self.restarts, "seed": scene.seed}
        return apgd(model, x, y, threat=scene.threat, loss=self.loss, batch_size=scene.batch_size, **options)

    def describe(self, scene: Scene) -> str:
        """Return what is run."""
        few = "cross-entropy (DLR needs 3 classes)" if self.loss == "dlr" else "cross-entropy"
        loss = "DLR" if self.loss == "dlr" and scene.num_classes > 2 else few
        starts = "1 random start" if self.restarts == 1 else f"{self.restarts} random restarts"
        return f"APGD-{self.steps} on {loss}, {starts}"


@ATTACKS.register("apgd-ce")
class ApgdCe(_Apgd):
    """Auto-PGD on the cross-entropy (2003.01690)."""

    loss = "ce"


@ATTACKS.register("apgd-dlr")
class ApgdDlr(_Apgd):
    """Auto-PGD on the difference-of-logits ratio; on the cross-entropy for two classes (2003.01690)."""

    loss = "dlr"


@ATTACKS.register("apgd-t")
@dataclass(frozen=True, kw_only=True)
class ApgdTargeted:
    """Auto-PGD on the targeted ratio, the likeliest target classes one after the other (2003.01690)."""

    steps: int = 100
    targets: int = 9
    norms: ClassVar[tuple[Norm, ...]] = _BOTH

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, targets=self.targets)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, scene: Scene) -> Tensor:
        """Return the images found."""
        options = {"steps": self.steps, "targets": self.targets, "num_classes": scene.num_classes}
        return apgd_targeted(
            model, x, y, threat=scene.threat, seed=scene.seed, batch_size=scene.batch_size, **options
        )

    def describe(self, scene: Scene) -> str:
        """Return what is run."""
        return f"APGD-T-{self.steps} on {targeted_words(scene.num_classes, self.targets)}"


class _FromPackage:
    """An attack of the AutoAttack package, as it is there."""

    name: ClassVar[PackageAttack]
    words: ClassVar[str]
    norms: ClassVar[tuple[Norm, ...]] = _BOTH

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, scene: Scene) -> Tensor:
        """Return the images found; `DataError` for images that are not float32."""
        options = {"num_classes": scene.num_classes, "seed": scene.seed, "batch_size": scene.batch_size}
        return package_attack(model, x, y, name=self.name, threat=scene.threat, **options)

    def describe(self, scene: Scene) -> str:
        """Return what is run."""
        return f"{self.words} (pyautoattack {version('pyautoattack')})"

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@ATTACKS.register("fab")
class Fab(_FromPackage):
    """The smallest change to any class, through the AutoAttack package (1907.02044)."""

    name, words = "fab", "FAB, 100 steps"


@ATTACKS.register("fab-t")
class FabTargeted(_FromPackage):
    """The smallest change to each of nine classes, through the AutoAttack package (1907.02044)."""

    name, words = "fab-t", "FAB-T, 100 steps for each target class"


@ATTACKS.register("square")
@dataclass(frozen=True, kw_only=True)
class Square:
    """Random squares, by answers alone, through the AutoAttack package (1912.00049)."""

    queries: int = 5000
    norms: ClassVar[tuple[Norm, ...]] = _BOTH
    by_answers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_counts(queries=self.queries)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, scene: Scene) -> Tensor:
        """Return the images found; `DataError` for images that are not float32."""
        options = {"num_classes": scene.num_classes, "seed": scene.seed, "batch_size": scene.batch_size}
        queries = None if self.queries == Square.queries else self.queries
        return package_attack(model, x, y, name="square", threat=scene.threat, queries=queries, **options)

    def describe(self, scene: Scene) -> str:
        """Return what is run."""
        return f"Square, {self.queries} queries (pyautoattack {version('pyautoattack')})"

    def __repr__(self) -> str:
        # Without settings as published, the spelling that batches kept so far are known by.
        return "Square()" if self.queries == Square.queries else f"Square(queries={self.queries})"


@ATTACKS.register("cw")
@dataclass(frozen=True, kw_only=True)
class CarliniWagner:
    """The smallest change in l2, which counts where it is in the ball; for l2 threats (1608.04644)."""

    steps: int = 100
    searches: int = 9
    constant: float = 1e-3
    lr: float = 0.01
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, searches=self.searches)
        for name in ("constant", "lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, scene: Scene) -> Tensor:
        """Return the images found in the ball; `DataError` for a threat that is not l2."""
        within(scene.threat, x, x)
        options = {"steps": self.steps, "searches": self.searches, "seed": scene.seed}
        found = carlini_wagner(
            model, x, y, constant=self.constant, lr=self.lr, batch_size=scene.batch_size, **options
        )
        return within(scene.threat, found, x)

    def describe(self, scene: Scene) -> str:
        """Return what is run."""
        return f"C&W l2, {self.searches} searches for c from {self.constant:g}, Adam-{self.steps} at {self.lr:g}"


@ATTACKS.register("fast")
@dataclass(frozen=True, kw_only=True)
class Fast:
    """The fast protocol, a fraction of the cost of AutoAttack and not AutoAttack: APGD-CE, then APGD-T."""

    norms: ClassVar[tuple[Norm, ...]] = _BOTH

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, scene: Scene) -> Tensor:
        """Return the images found."""
        options = {"num_classes": scene.num_classes, "seed": scene.seed, "batch_size": scene.batch_size}
        return fast(model, x, y, threat=scene.threat, **options)

    def describe(self, scene: Scene) -> str:
        """Return what is run."""
        return describe_fast(scene.num_classes)
