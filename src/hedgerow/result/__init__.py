"""`result.json` and its kin: everything one finished network is known to be, in a versioned schema.

Whatever compares or plots networks reads these records and nothing else.
"""

from hedgerow.result.accuracy import (
    AtEps,
    AtSeverity,
    Corrupted,
    Corruptions,
    Evaluation,
    LayerLoss,
    Sensitivity,
    Verdict,
)
from hedgerow.result.base import SCHEMA, Measure
from hedgerow.result.certificates import AtRadius, Certificate, Certification
from hedgerow.result.costs import Cost, ExportRecord, Latency, LatencyRecord, StoredForm, Survival
from hedgerow.result.networks import LayerCount, PhaseRecord, Result, SparsityCount, load_result

__all__ = [
    "SCHEMA",
    "AtEps",
    "AtRadius",
    "AtSeverity",
    "Certificate",
    "Certification",
    "Corrupted",
    "Corruptions",
    "Cost",
    "Evaluation",
    "ExportRecord",
    "Latency",
    "LatencyRecord",
    "LayerCount",
    "LayerLoss",
    "Measure",
    "PhaseRecord",
    "Result",
    "Sensitivity",
    "SparsityCount",
    "StoredForm",
    "Survival",
    "Verdict",
    "load_result",
]
