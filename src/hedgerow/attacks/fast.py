"""The fast protocol: most verdicts of AutoAttack at a fraction of its cost. It is not AutoAttack.

Most of AutoAttack's cost is for examples that stand in the end. So a sweep of short ascents goes over all
examples, one towards each target class, and drops an example the moment it is broken; a short Square follows on
what stands, for networks whose gradients lead nowhere; and only the examples that came closest to an error get
long ascents from further starts. Every "broken" is an image in the ball; the share that stands is an upper bound,
as for any attack.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hedgerow.attacks.apgd import ascent, targeted_words, toward
from hedgerow.attacks.autoattack import package_attack
from hedgerow.attacks.crafting import crafting
from hedgerow.attacks.losses import cross_entropy, margin
from hedgerow.attacks.survivors import Try, until_broken
from hedgerow.stochastic import averaged
from hedgerow.threat import ThreatModel

SWEEP_STEPS, SWEEP_TARGETS = 20, 9
QUERIES = 750
LONG_STEPS, LONG_TARGETS = 100, 3
CLOSEST = 6  # one in so many of the examples that stand


def fast(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    num_classes: int,
    seed: int = 0,
    batch_size: int = 500,
) -> Tensor:
    """Return `[N, ...]` adversarial images; unbroken examples come back where they came closest to an error.

    First Auto-PGD on the cross-entropy and on the targeted ratio of the nine likeliest classes, 20 steps each;
    then Square with 750 queries; then, for the sixth of the standing examples with the largest margins reached,
    Auto-PGD of 100 steps on the cross-entropy and the three likeliest classes. `x` is `[N, C, H, W]` float32 in
    [0,1], `y` `[N]` int64 below `num_classes`; with two classes there is one target and the cross-entropy, with
    three the ratio's denominator is another (`targeted_dlr`). Raises `DataError` for bad pixels or labels.
    """
    options = {"seed": seed, "batch_size": batch_size}
    sweep = _tries(threat, SWEEP_STEPS, min(SWEEP_TARGETS, num_classes - 1))
    found = until_broken(model, x, y, sweep, name="fast sweep", threat=threat, closest=True, **options)
    standing = (_margins(model, found, y, **options) <= 0).nonzero().flatten()
    if not len(standing):
        return found
    attempt = package_attack(
        model,
        x[standing],
        y[standing],
        name="square",
        threat=threat,
        num_classes=num_classes,
        queries=QUERIES,
        **options,
    )
    broken = _margins(model, attempt, y[standing], **options) > 0
    found[standing[broken]] = attempt[broken]
    standing = standing[~broken]
    margins = _margins(model, found[standing], y[standing], **options)
    near = standing[margins.topk(-(-len(standing) // CLOSEST)).indices]
    long = _tries(threat, LONG_STEPS, min(LONG_TARGETS, num_classes - 1))
    if len(near):
        found[near] = until_broken(
            model, x[near], y[near], long, name="fast long", threat=threat, closest=True, **options
        )
    return found


def describe_fast(num_classes: int) -> str:
    """Return what the protocol runs for this many classes, and that it is not AutoAttack."""
    sweep, long = (targeted_words(num_classes, count) for count in (SWEEP_TARGETS, LONG_TARGETS))
    return (
        f"fast protocol of Hedgerow, not AutoAttack: APGD-{SWEEP_STEPS} on cross-entropy and {sweep}; Square, "
        f"{QUERIES} queries; for the 1 in {CLOSEST} standing examples closest to an error APGD-{LONG_STEPS} on "
        f"cross-entropy and {long}"
    )


@torch.no_grad()
def _margins(model: nn.Module, x: Tensor, y: Tensor, *, seed: int, batch_size: int) -> Tensor:
    if not len(x):
        return x.new_zeros(0)
    with crafting(model) as inner:
        judge = averaged(inner, seed=seed)
        parts = zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True)
        return torch.cat([margin(judge(images), labels) for images, labels in parts])


def _tries(threat: ThreatModel, steps: int, targets: int) -> list[Try]:
    entropy = ascent(threat, steps, lambda _model, _x, y: lambda logits, index: cross_entropy(logits, y[index]))
    return [entropy, *(toward(threat, steps, rank) for rank in range(targets))]
