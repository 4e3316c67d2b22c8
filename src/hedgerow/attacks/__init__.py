"""Attacks: ways to look for a misclassified image inside the threat model."""

from hedgerow.attacks import named as _named  # noqa: F401
from hedgerow.attacks.apgd import apgd, apgd_targeted
from hedgerow.attacks.autoattack import autoattack, package_attack
from hedgerow.attacks.base import ATTACKS, Attack, Scene, by_answers
from hedgerow.attacks.carlini_wagner import carlini_wagner
from hedgerow.attacks.crafting import bare, check_images, crafting
from hedgerow.attacks.fast import fast
from hedgerow.attacks.fgsm import fgsm
from hedgerow.attacks.folding import folding
from hedgerow.attacks.ifgsm import ifgsm
from hedgerow.attacks.pgd import pgd
from hedgerow.attacks.standin import SparseCrafting, sparse_crafting
from hedgerow.attacks.template import ascend

__all__ = [
    "ATTACKS",
    "Attack",
    "Scene",
    "SparseCrafting",
    "apgd",
    "apgd_targeted",
    "ascend",
    "autoattack",
    "bare",
    "by_answers",
    "carlini_wagner",
    "check_images",
    "crafting",
    "fast",
    "fgsm",
    "folding",
    "ifgsm",
    "package_attack",
    "pgd",
    "sparse_crafting",
]
