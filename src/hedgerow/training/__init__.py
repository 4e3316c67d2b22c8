"""Training: one loop, its settings, its checkpoints and who listens to it."""

from hedgerow.training.listeners import Display, MetricsFile, read_metrics
from hedgerow.training.live import LogName, open_logs
from hedgerow.training.loop import train
from hedgerow.training.plan import Plan, build_optimizer, learning_rate
from hedgerow.training.setting import Listener, Metrics, Outcome, Setting

__all__ = [
    "Display",
    "Listener",
    "LogName",
    "Metrics",
    "MetricsFile",
    "Outcome",
    "Plan",
    "Setting",
    "build_optimizer",
    "learning_rate",
    "open_logs",
    "read_metrics",
    "train",
]
