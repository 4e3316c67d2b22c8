"""What an evaluation runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hedgerow.attacks import Attack
from hedgerow.errors import HedgerowError

_TAKEN = ("clean", "pgd", "autoattack", "worst_case", "verified")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is run: PGD steps (0: no PGD) and restarts (step eps / 4), AutoAttack or not, further attacks by the
    name of their measure, images per batch, seed. Raises `HedgerowError` for a name that is another measure's, and
    for a negative number of images.

    For stochastic models alone: PGD's gradients are means over `eot` draws, predictions go by the mean logits of
    `draws` others; 10 each unless said. `integrity`: how many of the images the integrity checks look at that
    ask the network again; 0 leaves those checks out.
    """

    pgd_steps: int = 50
    pgd_restarts: int = 5
    autoattack: bool = True
    batch_size: int = 500
    seed: int = 0
    # Not in the repr, which is part of a kept batch's identity: there the model's own repr has them.
    eot: int | None = field(default=None, repr=False)
    draws: int | None = field(default=None, repr=False)
    # Added to that identity only where there are any.
    attacks: Mapping[str, Attack] = field(default_factory=dict, repr=False)
    integrity: int = field(default=100, repr=False)  # changes no verdict

    def __post_init__(self) -> None:
        if self.integrity < 0:
            raise HedgerowError(
                f"integrity is {self.integrity}; it is a number of images, or 0 for no such checks"
            )
        for name in self.attacks:
            if name in _TAKEN:
                raise HedgerowError(
                    f"a further attack is called {name!r}, which is a measure already; call it otherwise"
                )
