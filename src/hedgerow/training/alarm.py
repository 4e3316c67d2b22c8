"""The alarm for robust accuracy that collapses: catastrophic overfitting (Wong et al., 2001.03994)."""

from __future__ import annotations

_FALL = 0.1  # a smaller fall may be chance
_BLIND = 10.0  # a network that answers its own examples this many times as often as PGD's learnt those alone


def has_collapsed(attacked: float, robust: float, best: float | None) -> bool:
    """Return whether robust accuracy is gone although the objective's own examples do not show it.

    All are shares. `attacked`: accuracy on the adversarial examples that the objective made in this epoch's
    training; `robust`: validation accuracy under PGD after it; `best`: the highest of the latter in the epochs of
    the phase before, None if there were none. True in either case:

    - it fell: `robust` is at most half of `best`, by 10 points at least, while `attacked` is nearer to `best` than
      to `robust`. Training that breaks down takes both with it and is not meant;
    - it was never there: `attacked` is half or more and `robust` at most a tenth of it.

    Robust overfitting, the slow decline of `robust` while `attacked` rises, is neither.
    """
    never = attacked >= 0.5 and robust * _BLIND <= attacked
    if best is None:
        return never
    fell = robust <= best / 2 and best - robust >= _FALL and attacked >= (best + robust) / 2
    return fell or never


def describe_collapse(attacked: float, robust: float, best: float | None) -> str:
    """Return what happened and what to do, in one line."""
    before = "" if best is None else f" (best before: {best:.1%})"
    return (
        f"robust accuracy has collapsed: PGD leaves {robust:.1%} on validation{before}, while {attacked:.1%} of "
        "the objective's own training examples are answered (catastrophic overfitting). Stop and try a lower lr, "
        "a smaller step_size or fewer replays, or train against more steps (pgd-at)"
    )
