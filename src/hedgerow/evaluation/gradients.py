"""Do gradients lead anywhere? The signs of gradient masking (1802.00420, section 3.1; 1902.06705, section 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import sqrt

import torch
from torch import Tensor, nn

from hedgerow.attacks import ascend, fgsm, package_attack, pgd
from hedgerow.attacks.losses import cross_entropy, margin
from hedgerow.attacks.template import EVERY, LossHole, gradient_at
from hedgerow.checks import Check, graded
from hedgerow.evaluation.detectors import Sample
from hedgerow.evaluation.verdicts import few
from hedgerow.seeds import derive
from hedgerow.stochastic import Averaged
from hedgerow.threat import ThreatModel

ZERO = "gradients are not zero"
RISING = "ascents end nearer to an error than random starts"
ITERATED = "iterated steps are not weaker than a single one"
LONGER = "more steps are not weaker"
BLACK_BOX = "a black-box attack is not better than gradients"
UNBOUNDED = "without a bound nothing stands"
NAMES = (ZERO, RISING, ITERATED, LONGER, BLACK_BOX, UNBOUNDED)

SHORT, LONG, POINTS, QUERIES, UNBOUNDED_STEPS = 10, 50, 10, 200, 50


@dataclass(frozen=True)
class _Points:
    """Margins `[m]` of images that are right, above 0 where one is misclassified, at what was tried on them."""

    image: Tensor
    random: Tensor
    single: Tensor
    short: Tensor
    long: Tensor


def check_gradients(sample: Sample) -> dict[str, Check]:
    """Return the checks of gradients, on the images of the sample that are classified correctly.

    For a radius of 0 there are none. Call inside `crafting` and `no_grad`.
    """
    threat = sample.job.threat
    if not threat.eps:
        return {}
    right = sample.predictions == sample.y
    x, y, broken = sample.x[right], sample.y[right], sample.broken[right]
    if not len(x):
        nothing = Check(outcome="warn", number=f"none of {len(sample.x)} images is classified correctly")
        return dict.fromkeys(NAMES, nothing)
    judge = sample.judge.at("integrity") if isinstance(sample.judge, Averaged) else sample.judge
    batches = list(zip(*(torch.split(t, sample.job.protocol.batch_size) for t in (x, y)), strict=True))
    dice = torch.Generator(device=x.device).manual_seed(derive(sample.job.protocol.seed, "integrity"))
    parts = [_points(judge, xs, ys, threat, dice) for xs, ys in batches]
    points = _Points(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(_Points)))
    return {
        ZERO: _zero(judge, batches, len(x)),
        RISING: _rising(points),
        **_steps(points),
        BLACK_BOX: _black_box(sample, judge, x, y, broken | (points.long > 0)),
        UNBOUNDED: _unbounded(sample, judge, x, y),
    }


def _points(judge: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, dice: torch.Generator) -> _Points:
    starts = [threat.random_start(x, dice) for _ in range(POINTS)]

    def climbed(start: Tensor, steps: int) -> Tensor:
        size, loss = float(threat.eps) / 4, _of(cross_entropy, y)
        return ascend(judge, x, threat=threat, start=start, loss=loss, steps=steps, step_size=size)

    short = climbed(starts[0], SHORT)
    long = climbed(short, LONG - SHORT)
    random = torch.stack([margin(judge(start), y) for start in starts]).amax(0)
    others = (margin(judge(at.detach()), y) for at in (fgsm(judge, x, y, threat=threat), short, long))
    return _Points(margin(judge(x), y), random, *others)


def _of(function: Callable[[Tensor, Tensor], Tensor], y: Tensor) -> LossHole:
    return lambda logits, index: function(logits, y[index])


def _zero(judge: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], n: int) -> Check:
    zero = {}
    for name, loss in (("cross-entropy", cross_entropy), ("margin", margin)):
        with torch.enable_grad():
            slopes = [gradient_at(judge, x, EVERY, _of(loss, y), 0).flatten(1) for x, y in batches]
        zero[name] = sum(int(((slope == 0) | ~slope.isfinite()).all(1).sum()) for slope in slopes)
    return graded(
        zero["cross-entropy"],
        warn=n / 20,
        fail=max(2, n / 5),
        number=", ".join(f"{count} of {n} zero everywhere for the {name}" for name, count in zero.items()),
        how="gradients at the images themselves",
    )


def _rising(points: _Points) -> Check:
    n = len(points.image)
    stuck = int((~(points.long > points.random)).sum())
    means = [
        f"{float(at.mean()):.3g} {where}"
        for where, at in (("at the images", points.image), ("at random", points.random), ("climbed", points.long))
    ]
    return graded(
        stuck,
        warn=n / 20,
        fail=max(2, n / 5),
        number=f"{stuck} of {n} do not; mean margin {', '.join(means)}",
        how=f"last point of PGD-{LONG} on cross-entropy, against the best of {POINTS} random points in the ball",
    )


def _steps(points: _Points) -> Mapping[str, Check]:
    n = len(points.image)
    single, short, long = (int((~(at > 0)).sum()) for at in (points.single, points.short, points.long))
    how = f"last points of PGD-{LONG} from one random start, step eps/4, and of"
    return {
        ITERATED: graded(
            long - single,
            warn=0,
            fail=few(n),
            number=f"{long} of {n} stand under PGD-{LONG}, {single} under FGSM",
            how=f"{how} FGSM",
        ),
        LONGER: graded(
            long - short,
            warn=0,
            fail=few(n),
            number=f"{long} of {n} stand under PGD-{LONG}, {short} under PGD-{SHORT}",
            how=f"{how} its first {SHORT} steps",
        ),
    }


def _black_box(sample: Sample, judge: nn.Module, x: Tensor, y: Tensor, broken: Tensor) -> Check:
    job = sample.job
    found = package_attack(
        judge,
        x,
        y,
        name="square",
        threat=job.threat,
        num_classes=job.classes,
        seed=job.protocol.seed,
        batch_size=job.protocol.batch_size,
        queries=QUERIES,
    )
    square = judge(found).argmax(1) != y
    return graded(
        int(square.sum()) - int(broken.sum()),
        warn=0,
        fail=few(len(x)),
        number=f"Square breaks {int(square.sum())} of {len(x)}, gradients {int(broken.sum())}; "
        f"{int((square & ~broken).sum())} Square alone",
        how=f"Square with {QUERIES} queries, against the PGD of the evaluation and PGD-{LONG}",
    )


def _unbounded(sample: Sample, judge: nn.Module, x: Tensor, y: Tensor) -> Check:
    protocol = sample.job.protocol
    whole = 1 if sample.job.threat.norm == "linf" else sqrt(x[0].numel())
    threat = sample.job.threat.with_eps(whole)
    found = pgd(
        judge,
        x,
        y,
        threat=threat,
        steps=UNBOUNDED_STEPS,
        restarts=1,
        seed=protocol.seed,
        batch_size=protocol.batch_size,
    )
    standing = int((judge(found).argmax(1) == y).sum())
    return graded(
        standing,
        warn=0,
        fail=max(2, len(x) / 5),
        number=f"{standing} of {len(x)} stand",
        how=f"PGD-{UNBOUNDED_STEPS} with every image allowed, {threat.norm} {float(threat.eps):.4g}",
    )
