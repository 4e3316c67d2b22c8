"""Certification: what no attacker can do, with how sure that is."""

from hedgerow.certify.base import CERTIFIERS, Certifier, Evidence, Proof
from hedgerow.registry import import_folder

import_folder(__name__, list(__path__))

from hedgerow.certify.bounds import Bounds  # noqa: E402
from hedgerow.certify.gather import certify, gather, identify  # noqa: E402
from hedgerow.certify.ledger import Ledger, Shard  # noqa: E402
from hedgerow.certify.smoothing import Smoothing  # noqa: E402
from hedgerow.certify.statistics import certified_radius, lower_confidence, predicted_class  # noqa: E402

__all__ = [
    "CERTIFIERS",
    "Bounds",
    "Certifier",
    "Evidence",
    "Ledger",
    "Proof",
    "Shard",
    "Smoothing",
    "certified_radius",
    "certify",
    "gather",
    "identify",
    "lower_confidence",
    "predicted_class",
]
