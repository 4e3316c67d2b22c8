"""Evaluation: what the finished network really does, with n, seed, interval and method beside every number."""

from hedgerow.evaluation.attacked import Evaluated, evaluate
from hedgerow.evaluation.certified import standing, summarise_certificates
from hedgerow.evaluation.curve import add_curve
from hedgerow.evaluation.protocol import Protocol
from hedgerow.evaluation.quick import quick_accuracy
from hedgerow.evaluation.sensitivity import layer_sensitivity
from hedgerow.evaluation.shards import SAMPLED_BATCH, Budget, Share, UnfinishedError
from hedgerow.evaluation.shifted import add_corruptions, chosen_corruptions
from hedgerow.evaluation.statistics import Paired, mcnemar, wilson
from hedgerow.evaluation.verified import add_verified, check_verifiable

__all__ = [
    "SAMPLED_BATCH",
    "Budget",
    "Evaluated",
    "Paired",
    "Protocol",
    "Share",
    "UnfinishedError",
    "add_corruptions",
    "add_curve",
    "add_verified",
    "check_verifiable",
    "chosen_corruptions",
    "evaluate",
    "layer_sensitivity",
    "mcnemar",
    "quick_accuracy",
    "standing",
    "summarise_certificates",
    "wilson",
]
