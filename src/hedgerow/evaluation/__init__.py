"""Evaluation: what the finished network really does, with n, seed, interval and method beside every number."""

from hedgerow.evaluation.attacked import Evaluated, Protocol, evaluate, quick_accuracy
from hedgerow.evaluation.certified import standing, summarise_certificates
from hedgerow.evaluation.statistics import wilson

__all__ = [
    "Evaluated",
    "Protocol",
    "evaluate",
    "quick_accuracy",
    "standing",
    "summarise_certificates",
    "wilson",
]
