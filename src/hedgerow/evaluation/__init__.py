"""Evaluation: what the finished network really does, with n, seed, interval and method beside every number."""

from hedgerow.evaluation.attacked import Evaluated, evaluate, quick_accuracy
from hedgerow.evaluation.certified import standing, summarise_certificates
from hedgerow.evaluation.curve import add_curve
from hedgerow.evaluation.protocol import Protocol
from hedgerow.evaluation.sensitivity import layer_sensitivity
from hedgerow.evaluation.statistics import Paired, mcnemar, wilson
from hedgerow.evaluation.verified import add_verified, check_verifiable

__all__ = [
    "Evaluated",
    "Paired",
    "Protocol",
    "add_curve",
    "add_verified",
    "check_verifiable",
    "evaluate",
    "layer_sensitivity",
    "mcnemar",
    "quick_accuracy",
    "standing",
    "summarise_certificates",
    "wilson",
]
