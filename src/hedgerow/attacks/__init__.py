"""Attacks: ways to look for a misclassified image inside the threat model."""

from hedgerow.attacks.autoattack import autoattack
from hedgerow.attacks.crafting import bare, check_images, crafting
from hedgerow.attacks.fgsm import fgsm
from hedgerow.attacks.pgd import pgd
from hedgerow.attacks.template import ascend

__all__ = ["ascend", "autoattack", "bare", "check_images", "crafting", "fgsm", "pgd"]
