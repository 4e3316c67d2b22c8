"""Certificates from sound bounds: no image within eps changes the class, with certainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from hedgerow.bounds import METHODS, Method, Traces, check_weights, margin_bounds, verified
from hedgerow.certify.base import CERTIFIERS, Evidence, Proof
from hedgerow.errors import CertificationError, ModelError
from hedgerow.threat import Norm, ThreatModel

Precision = Literal["float64", "float32"]
_TOGETHER = {"ibp": 500, "crown-ibp": 100, "crown": 10, "alpha-crown": 10}  # images between two looks at the clock
_SOURCES = {"ibp": "1810.12715", "crown-ibp": "1906.06316", "crown": "1811.00866", "alpha-crown": "2011.13824"}


@dataclass(frozen=True)
class Bounds:
    """Sound bounds at one radius: an image is proved when its class beats every other one all over the ball.

    The ball is that of `threat`, cut to the pixel range. Bounds are computed in `precision` and hold in spite of
    its rounding, for the network in real arithmetic; `steps` are those of `alpha-crown`. Deterministic: the seed
    has no part. Raises `CertificationError` for an unknown precision and fewer than one step.
    """

    method: Method
    threat: ThreatModel
    precision: Precision = "float64"
    steps: int = 20
    seed: int = 0
    traces: Traces = field(default_factory=Traces, repr=False, compare=False)

    asks = 0
    answer_name = "clean"
    answer_how = "the network's own answer, without proof"

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            allowed = ", ".join(get_args(Precision))
            raise CertificationError(f"precision {self.precision!r} is not known; allowed: {allowed}")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise CertificationError(f"steps is {self.steps!r}; it must be a whole number, 1 or more")

    @property
    def norm(self) -> Norm:
        """The threat model's."""
        return self.threat.norm

    @property
    def label(self) -> str:
        """Return norm and eps: what tells two folders apart."""
        return f"{self.norm}-{float(self.threat.eps):.4g}"

    def settings(self) -> dict[str, Any]:
        """Return method, norm, eps, precision and steps."""
        steps = {"steps": self.steps} if self.method == "alpha-crown" else {}
        return {"norm": self.norm, "eps": str(self.threat.eps), "precision": self.precision, **steps}

    def describe(self) -> str:
        """Return in words how it is proved and what it promises."""
        return (
            f"{self.method} bounds ({_SOURCES[self.method]}), {self.threat}, pixels in [0,1], computed in "
            f"{self.precision}, its rounding included: certain, for the network in real arithmetic"
        )

    def radii(self) -> list[float]:
        """Return 0 and eps; between them certified accuracy is the same."""
        return sorted({0.0, float(self.threat.eps)})

    def together(self, model: nn.Module, batch_size: int) -> int:
        """Return how many images are bounded at a time."""
        return min(batch_size, _TOGETHER[self.method])

    def check(self, model: nn.Module, x: Tensor) -> None:
        """Raise `ModelError` for a stochastic network, an operation without bounds, and weights that are NaN."""
        check_weights(self.traces.of(model, x), model)

    def examine(self, model: nn.Module, x: Tensor, positions: Sequence[int], batch_size: int) -> list[Evidence]:
        """Return, for `[G, ...]` images, the class, whether it is proved, and the smallest margin bound."""
        logits = model(x)
        if not isinstance(logits, Tensor) or not bool(logits.isfinite().all()):
            raise ModelError(f"the network returned NaN or infinity for image {positions[0]} or one after it")
        answers = logits.argmax(1)
        found = margin_bounds(
            self.traces.of(model, x),
            model,
            x,
            answers,
            self.threat,
            self.method,
            dtype=getattr(torch, self.precision),
            steps=self.steps,
        )
        proved = verified(found, answers)
        least = found.scatter(1, answers.unsqueeze(1), torch.inf).amin(1)
        parts = zip(answers.tolist(), proved.tolist(), least.tolist(), strict=True)
        # JSON has no infinity: a bound that overflowed says nothing.
        return [{"answer": a, "proved": p, "margin": m if abs(m) < 1e300 else None} for a, p, m in parts]

    def conclude(self, evidence: Evidence) -> Proof:
        """Return the class to eps where it is proved."""
        answer = int(evidence["answer"])
        return Proof(answer, float(self.threat.eps), answer) if evidence["proved"] else Proof(None, 0.0, answer)


def _register(method: Method) -> None:
    def build(
        threat: ThreatModel | None = None,
        *,
        eps: Fraction | str | None = None,
        norm: Norm | None = None,
        precision: Precision = "float64",
        steps: int = 20,
        seed: int = 0,
    ) -> Bounds:
        threat = threat or ThreatModel()
        try:
            chosen = ThreatModel(norm or threat.norm, threat.eps if eps is None else eps)
        except ValueError as error:
            raise CertificationError(str(error)) from error
        return Bounds(method, chosen, precision, steps, seed)

    build.__doc__ = (
        f"Sound bounds by {method} (arXiv {_SOURCES[method]}); eps and norm are the recipe's unless given."
    )
    CERTIFIERS.register(method)(build)


for _method in METHODS:
    _register(_method)
