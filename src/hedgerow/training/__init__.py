"""Training: one loop, its settings, its checkpoints and who listens to it."""

from hedgerow.training.listeners import Display, MetricsFile, read_metrics
from hedgerow.training.loop import train
from hedgerow.training.plan import Plan, build_optimizer, learning_rate
from hedgerow.training.setting import Listener, Metrics, Outcome, Setting

__all__ = [
    "Display",
    "Listener",
    "Metrics",
    "MetricsFile",
    "Outcome",
    "Plan",
    "Setting",
    "build_optimizer",
    "learning_rate",
    "read_metrics",
    "train",
]
