"""Sound bounds of what a network answers to any image near a given one: IBP, CROWN-IBP, CROWN, alpha-CROWN."""

from hedgerow.bounds.crown import METHODS, Method, crown_walk, interval_least, interval_walk, linear_least
from hedgerow.bounds.forward import Walk
from hedgerow.bounds.margins import margin_bounds, output_bounds, verified
from hedgerow.bounds.network import Network, check_supported, check_weights
from hedgerow.bounds.regions import Region, ball, box
from hedgerow.bounds.rounding import Rounding
from hedgerow.bounds.stability import channel_instability, neuron_instability, nrs_loss, stability_loss
from hedgerow.bounds.statistics import batch_statistics
from hedgerow.bounds.traces import Traces

__all__ = [
    "METHODS",
    "Method",
    "Network",
    "Region",
    "Rounding",
    "Traces",
    "Walk",
    "ball",
    "batch_statistics",
    "box",
    "channel_instability",
    "check_supported",
    "check_weights",
    "crown_walk",
    "interval_least",
    "interval_walk",
    "linear_least",
    "margin_bounds",
    "neuron_instability",
    "nrs_loss",
    "output_bounds",
    "stability_loss",
    "verified",
]
